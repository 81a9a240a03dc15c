"""One running session in one viewer: events become session calls, session signals become layer updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_segany.core.masks import LabelPatch
from napari_segany.session.answers import Preview
from napari_segany.session.image import ImageSession
from napari_segany.session.prompts import PlaneIndex

from .class_colours import ClassColours
from .grid import Grid
from .layers import SessionLayers
from .object_features import show_objects
from .painting import forget_history, watch_paint
from .preview_drawing import PreviewDrawing
from .prompting import Prompting
from .shortcuts import bind_shortcuts
from .target import Target

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

Event = Any  # napari's events are untyped


class Annotation(Prompting):
    """Connects a session to a viewer until `stop`.

    Parameters
    ----------
    viewer
        Where it happens; nothing is kept outside of it.
    image
        The layer that is segmented.
    session
        Does the work.
    layers
        Show it.
    grid
        Where prompts and labels lie.
    target
        Where labels go.
    later
        Runs a call once the present event is over.
    """

    plane_changed = Signal()

    def __init__(
        self,
        viewer: ViewerModel,
        image: Image,
        *,
        session: ImageSession,
        layers: SessionLayers,
        grid: Grid,
        target: Target,
        later: Callable[[Callable[[], None]], None] = lambda call: call(),
    ) -> None:
        self.session, self._layers = session, layers
        self._drawing, self._colours = PreviewDrawing(layers), ClassColours(layers.labels)
        self._is_coloured = False
        super().__init__(viewer, image, prompts=session, layers=layers, grid=grid, target=target, later=later)
        self._connect()
        if self.session.objects.rows:
            self._describe_objects()
        self.session.prepare(self.plane)

    @property
    def layers(self) -> SessionLayers:
        """Where prompts are given, and previews and labels shown."""
        return self._layers

    # ------------------------------------------------------------------ actions, as named in the key table

    def commit(self) -> None:
        """Write the object into the labels."""
        self.session.commit()

    def clear(self) -> None:
        """Forget the prompts."""
        self.session.clear()

    def undo(self) -> None:
        """Take the last action back."""
        self.session.undo()

    def redo(self) -> None:
        """Repeat what was undone."""
        self.session.redo()

    def next_object(self) -> None:
        """Start another object without committing."""
        self.session.next_object()

    def find_all(self) -> None:
        """Add every object of the plane in view."""
        self.session.find_all(self.plane)

    def show_larger(self) -> None:
        """Show the next larger candidate."""
        self.session.choose_next(self.plane, step=1)

    def show_smaller(self) -> None:
        """Show the next smaller candidate."""
        self.session.choose_next(self.plane, step=-1)

    def show_coarser(self) -> None:
        """Choose the next coarser level."""
        self.session.step_level(self.plane, step=1)

    def show_finer(self) -> None:
        """Choose the next finer level."""
        self.session.step_level(self.plane, step=-1)

    # ------------------------------------------------------------------ actions with a subject

    @property
    def is_coloured_by_class(self) -> bool:
        """Whether labels are to have the colours of their classes, as soon as one has a class."""
        return self._is_coloured

    def colour_by_class(self, is_on: bool) -> None:
        """Colour labels by their classes, or as before."""
        self._is_coloured = is_on
        self._show_colours()

    # ------------------------------------------------------------------ inside

    def _connect(self) -> None:
        layers, session = self._layers, self.session
        self._leave.append(bind_shortcuts(self.viewer, layers, actions=self))
        self._leave.append(watch_paint(layers.labels, self._on_paint))
        for emitter, callback in (
            (self.viewer.dims.events.current_step, self._on_dims),
            (session.prompts_changed, self._on_prompts),
            (session.preview_changed, self._on_preview),
            (session.labels_changed, self._on_labels),
            (session.object_changed, self._on_object),
            (session.objects_changed, self._describe_objects),
        ):
            self._listen(emitter, callback)

    def _end(self, timeout: float) -> None:
        self.session.close(timeout=timeout)

    # ------------------------------------------------------------------ inside: napari's events

    def _on_dims(self, event: Event) -> None:
        self.session.prepare(self.plane)
        self.plane_changed.emit()

    def _on_paint(self, patches: tuple[LabelPatch, ...]) -> None:
        self.session.record_paint(patches)

    # ------------------------------------------------------------------ inside: session signals

    def _on_preview(self, index: PlaneIndex, preview: Preview | None) -> None:
        self._drawing.put(index, preview, in_view=self.plane if self.shows_planes else None)

    def _describe_objects(self) -> None:
        """Bring features and colours of the Labels layer up to date."""
        show_objects(self.layers.labels, self.session.objects)
        self._show_colours()

    def _show_colours(self) -> None:
        if self._is_coloured and self.session.objects.has_names:
            self._colours.show(self.session.objects)
        else:
            self._colours.hide()

    def _on_labels(self, patches: tuple[LabelPatch, ...]) -> None:
        forget_history(self.layers.labels)
        self.layers.labels.refresh(extent=False)

    def _on_object(self, object_id: int) -> None:
        self.layers.labels.selected_label = object_id

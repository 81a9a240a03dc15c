"""One running session in one viewer: events become session calls, session signals become layer updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from napari_segany.core.masks import LabelPatch
from napari_segany.session.answers import Preview
from napari_segany.session.image import ImageSession
from napari_segany.session.prompts import PlaneIndex

from .grid import Grid
from .layers import SessionLayers
from .painting import forget_history, watch_paint
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
        super().__init__(viewer, image, prompts=session, layers=layers, grid=grid, target=target, later=later)
        self._connect()
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
        ):
            self._listen(emitter, callback)

    def _end(self, timeout: float) -> None:
        self.session.close(timeout=timeout)

    # ------------------------------------------------------------------ inside: napari's events

    def _on_dims(self, event: Event) -> None:
        self.session.prepare(self.plane)

    def _on_paint(self, patches: tuple[LabelPatch, ...]) -> None:
        self.session.record_paint(patches)

    # ------------------------------------------------------------------ inside: session signals

    def _on_preview(self, index: PlaneIndex, preview: Preview | None) -> None:
        planes = self.layers.stack.planes
        planes.pop(index, None)
        if preview is not None:
            planes[index] = preview.mask
        self.layers.preview.refresh(extent=False, thumbnail=False)

    def _on_labels(self, patches: tuple[LabelPatch, ...]) -> None:
        forget_history(self.layers.labels)
        self.layers.labels.refresh(extent=False)

    def _on_object(self, object_id: int) -> None:
        self.layers.labels.selected_label = object_id

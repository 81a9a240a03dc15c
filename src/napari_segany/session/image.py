"""ImageSession: clicks, boxes and drawn masks in; live previews, committed labels and undo out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from psygnal import Signal

from napari_segany.core.errors import PromptError
from napari_segany.core.intensity import Window
from napari_segany.core.masks import LabelPatch, LabelSink
from napari_segany.core.types import BoolMask, Box, FloatArray, ImagePredictorLike, Points

from .answers import Found, PlaneModel, Preview
from .choosing import ChoosingSession
from .commit import paint_found, paint_previews, provenance, provenance_of_found
from .features import FeatureCache, FeatureStoreLike
from .history import Entry, Journal, noted_objects
from .objects import LEVEL_KEY, CommittedObject, ObjectTable, left_in, note_of, row_of
from .prompts import ObjectPrompts, PlaneIndex, PromptEdit
from .source import PlaneSource
from .state import SessionState
from .worker import InlineWorker, Worker


class ImageSession(ChoosingSession):
    """Segments one object after another on the planes of one image.

    Everything a person does goes through a method here and can be undone; everything that changes is told by
    a signal. Models run on the worker; signals come on the thread that owns the session.

    Parameters
    ----------
    source
        Planes to look at.
    predictor
        A predictor, or a function that loads one; the function runs on the worker.
    sink
        Where committed objects go.
    worker
        A `LatestWorker` in a window; without one, each call runs to its end.
    cache_bytes
        Memory for the features of planes.
    store
        Where features outlive the session, e.g. `io.features.FeatureStore`; None keeps them in memory only.
    versions
        Of the software, for provenance.
    fine
        Whether masks get fine boundaries; see the property.
    objects
        What is known of objects that are there already; what the sink's ledger says goes before it.
    """

    objects_changed = Signal()  # `objects` is another table

    def __init__(
        self,
        source: PlaneSource,
        predictor: ImagePredictorLike | Callable[[], ImagePredictorLike],
        *,
        sink: LabelSink,
        worker: Worker | None = None,
        cache_bytes: int = 1 << 29,
        store: FeatureStoreLike | None = None,
        versions: Mapping[str, str] | None = None,
        fine: bool | None = None,
        objects: ObjectTable | None = None,
    ) -> None:
        if tuple(source.shape) != tuple(sink.shape):
            raise PromptError(f"{source.name} has planes of {source.shape} but the labels have {sink.shape}")
        self._source, self._sink = source, sink
        self._versions = dict(versions or {})
        load = (lambda: predictor) if isinstance(predictor, ImagePredictorLike) else predictor
        cache = FeatureCache(max_bytes=cache_bytes)
        model = PlaneModel(load, source=source, cache=cache, store=store)
        super().__init__(model, worker=worker or InlineWorker())
        self._journal = Journal(prompts=self._prompts, sink=sink, noted=noted_objects)
        left = left_in(sink)
        self._level, self._objects = left.level, (objects or ObjectTable()).changed(left.table.rows)
        self._outdated: set[PlaneIndex] = set()  # previews of another model, or of other boundaries
        self._fine = fine
        self._live: Mapping[PlaneIndex, ObjectPrompts] | None = None
        self._commit_waits = False
        self._object_id = sink.max_label() + 1
        self.keep_existing = True
        self._prompts.changed.connect(self._on_prompts)

    # ------------------------------------------------------------------ what is

    @property
    def source(self) -> PlaneSource:
        """The image in work."""
        return self._source

    @property
    def window(self) -> Window | None:
        """The intensity window of the image, once a plane was looked at."""
        return self._source.window() if len(self._model.cache) else None

    @property
    def object_id(self) -> int:
        """The label that the next commit writes."""
        return self._object_id

    @object_id.setter
    def object_id(self, value: int) -> None:
        if not 1 <= value < 1 << 32:
            raise PromptError(f"object id {value} is not a label; use 1 to {(1 << 32) - 1}")
        if value != self._object_id:
            self._object_id = int(value)
            self.object_changed.emit(self._object_id)

    @property
    def fine(self) -> bool | None:
        """Whether masks get fine boundaries: None as the model is made, False as the model beneath it.

        True asks for them: of a model that draws none, the answer is an error. Changing it asks for the open previews
        again; features stay.
        """
        return self._fine

    @fine.setter
    def fine(self, value: bool | None) -> None:
        if value is self._fine:
            return
        self._fine = value
        self.fine_changed.emit(value)
        if len(self._prompts):
            self._ask_again()

    @property
    def objects(self) -> ObjectTable:
        """What is known of committed objects: class, score, level."""
        return self._objects

    @property
    def undo_title(self) -> str | None:
        """What undo would take back."""
        return self._journal.undo_title

    @property
    def redo_title(self) -> str | None:
        """What redo would repeat."""
        return self._journal.redo_title

    def prompts(self, index: PlaneIndex) -> ObjectPrompts:
        """Return the prompts of the current object on one plane."""
        return self._prompts[index]

    def state(self) -> SessionState:
        """Return what is in work, to be saved."""
        steps = self._journal.done
        finished = {step.ids[0]: step.prompts.before for step in steps if step.ids and step.prompts}
        return SessionState(self._object_id, self._prompts.snapshot(), finished, self._level, self.classes)

    # ------------------------------------------------------------------ prompts

    def click(self, index: PlaneIndex, coord: tuple[float, float], *, positive: bool = True) -> None:
        """Add a click at (row, col); it refines what is shown on that plane."""
        now, shown = self._prompts[index], self._previews.get(index)
        is_current = shown is not None and shown.prompts is now and index not in self._outdated
        seed = shown.seed() if shown is not None and is_current else None
        edit = self._prompts.add_click(index, coord, positive=positive, seed=seed)
        self._changed("click" if positive else "negative click", edit)

    def set_points(self, index: PlaneIndex, points: Points, *, is_live: bool = False) -> None:
        """Replace all clicks of one plane; `is_live` while one is dragged: a drag is one undo step."""
        self._changed("move or delete clicks", self._prompts.set_points(index, points), is_live=is_live)

    def set_box(self, index: PlaneIndex, box: Box | None, *, is_live: bool = False) -> None:
        """Replace the box of one plane."""
        self._changed("box", self._prompts.set_box(index, box), is_live=is_live)

    def set_mask(
        self,
        index: PlaneIndex,
        mask: BoolMask | None,
        *,
        outlines: tuple[FloatArray, ...] = (),
        is_live: bool = False,
    ) -> None:
        """Replace the drawn (H, W) mask of one plane; `outlines` are the polygons it was drawn with."""
        if mask is not None and mask.shape != tuple(self._source.shape[-2:]):
            raise PromptError(f"the drawn mask is {mask.shape} but the plane is {self._source.shape[-2:]}")
        self._changed("drawn mask", self._prompts.set_mask(index, mask, outlines=outlines), is_live=is_live)

    def clear(self) -> None:
        """Stop what runs, but for the loading of a model, and forget the prompts of the current object."""
        self._interrupt()
        if len(self._prompts):
            self._changed("clear", self._prompts.clear())
        else:
            self._ask()

    def restore(self, state: SessionState) -> None:
        """Go on with what was saved."""
        self.object_id = state.object_id
        self.choose_level(state.level)
        self.set_classes(state.classes)
        self._changed("load prompts", self._prompts.restore(state.prompts))

    # ------------------------------------------------------------------ answers

    def find_all(self, index: PlaneIndex) -> None:
        """Add every object that the model finds on one plane to the labels, as one step; what is there stays.

        The object in work stays too; something asked meanwhile calls the search off.
        """
        report = self._on_stage
        self._submit(
            lambda ticket: self._model.find(index, ticket=ticket, report=report),
            lambda found: self._add_found(index, found),
        )

    # ------------------------------------------------------------------ labels

    def commit(self) -> bool:
        """Write what is shown into the labels as one object, and go on to the next.

        Answers on their way are waited for: the commit follows them.

        Returns
        -------
        bool
            False when there is nothing to write yet.
        """
        if not len(self._prompts):
            return False
        if self._unanswered():
            self._commit_waits = True
            self._ask()
            return False
        patches = paint_previews(
            self._previews, sink=self._sink, label_id=self._object_id, keep_existing=self.keep_existing
        )
        if not patches:
            self.failed.emit(PromptError("the mask adds no pixel: it is empty or other objects cover it"))
            return False
        self._commit(patches)
        return True

    def record_paint(self, patches: tuple[LabelPatch, ...]) -> None:
        """Remember label edits that were made by hand and are already in the labels."""
        if patches:
            self._record(Entry("paint", patches=patches))

    def next_object(self) -> None:
        """Go on with the lowest id above all labels, without committing."""
        self.clear()
        self.object_id = max(self._sink.max_label(), 0) + 1

    def undo(self) -> bool:
        """Take the last action back; False when there is none."""
        return self._step(self._journal.undo)

    def redo(self) -> bool:
        """Repeat the action undone last; False when there is none."""
        return self._step(self._journal.redo)

    def close(self, *, timeout: float = 5.0) -> bool:
        """End the worker and let go of the model; says whether the thread ended in time."""
        self._commit_waits = False
        ended = self._worker.close(timeout=timeout)
        self._model.forget()
        self._previews.clear()
        self._outdated.clear()
        return ended

    # ------------------------------------------------------------------ inside

    def _changed(self, title: str, edit: PromptEdit, *, is_live: bool = False) -> None:
        """Record a change of the prompts, a whole drag as one, and ask for new answers."""
        before = edit.before if self._live is None else self._live
        self._live = before if is_live else None
        if not is_live:
            self._record(Entry(title, prompts=PromptEdit(before, edit.after)))
        self._ask()

    def _ask_again(self) -> None:
        """Ask for every preview anew; what is shown stays until it is answered."""
        self._outdated.update(self._previews)
        self._ask()

    def _go_on(self) -> None:
        """Count the answers of the model that stayed again, and ask it for those that lack."""
        current = [index for index, shown in self._previews.items() if shown.card == self.card]
        self._outdated.difference_update(current)
        if self.card is not None and self._unanswered() and not self._worker.is_busy:
            self._ask()

    def _interrupt(self) -> None:
        self._commit_waits = False

    def _on_prompts(self, index: PlaneIndex) -> None:
        if self._prompts[index].is_empty:
            self._steps.pop(index, None)
        if self._prompts[index].is_empty and self._previews.pop(index, None) is not None:
            self._outdated.discard(index)
            self.preview_changed.emit(index, None)
        self.prompts_changed.emit(index)

    def _unanswered(self) -> list[PlaneIndex]:
        """Return the planes whose preview is not of their present prompts."""
        current = [(i, preview) for i, preview in self._previews.items() if i not in self._outdated]
        shown = {index: preview.prompts for index, preview in current}
        return [index for index in self._prompts if shown.get(index) is not self._prompts[index]]

    def _ask(self) -> None:
        """Ask for the answer of a plane that lacks it, the one changed last first."""
        waiting = self._unanswered()
        if not waiting and self._model.is_switching:
            self._prepare()
            return
        if not waiting:
            self._worker.cancel()
            self._idle()
            return
        index, report, fine = waiting[-1], self._on_stage, self._fine
        prompts = self._prompts[index]
        self._submit(
            lambda ticket: self._model.answer(index, prompts, fine=fine, ticket=ticket, report=report),
            lambda preview: self._on_answer(index, preview),
        )

    def _on_answer(self, index: PlaneIndex, preview: Preview) -> None:
        if preview.prompts is not self._prompts[index]:
            return
        self._outdated.discard(index)
        self._show(index, self._as_chosen(index, preview))
        if self._unanswered():
            self._ask()
            return
        self._idle()
        if self._commit_waits:
            self._commit_waits = False
            self.commit()

    def _add_found(self, index: PlaneIndex, found: Found) -> None:
        """Write what was found into the labels, as one step of the history."""
        patch = paint_found(found.labels, sink=self._sink, index=index)
        self._idle()
        if patch is None:
            self.failed.emit(
                PromptError(f"{found.card.name} found no object that is not in the labels already")
            )
            return
        first = self._sink.max_label() + 1
        last = int(patch.after.max())
        note = provenance_of_found(found, labels=(first, last), image=self._source.name)
        self._sink.write(patch, note={**note, "versions": self._versions})
        before, self.object_id = self._object_id, max(last + 1, self._object_id)
        edit = self._objects.edit(CommittedObject(label) for label in range(first, last + 1))
        ids = (before, self._object_id)
        self._record(Entry(f"{last - first + 1} objects", (patch,), ids=ids, objects=edit))
        self._put_objects(self._objects.changed(edit.after))
        self.labels_changed.emit((patch,))

    def _commit(self, patches: list[LabelPatch]) -> None:
        """Write patches, record them with the prompts they came from, and start the next object."""
        finished = self._object_id
        row = row_of((self._previews[patch.index] for patch in patches), label=finished)
        objects = self._objects.edit([row])
        about = {LEVEL_KEY: self._level, **note_of(objects.after)}
        for patch in patches:
            note = provenance(self._previews[patch.index], label_id=finished, image=self._source.name)
            self._sink.write(patch, note={**note, **about, "versions": self._versions})
            self.committed.emit((patch,), note)
        edit = self._prompts.clear()
        self.object_id = max(self._sink.max_label(), finished) + 1
        ids = (finished, self._object_id)
        self._record(Entry(f"object {finished}", tuple(patches), prompts=edit, ids=ids, objects=objects))
        self._put_objects(self._objects.changed(objects.after))
        self.labels_changed.emit(tuple(patches))

    def _step(self, move: Callable[[], Entry | None]) -> bool:
        """Undo or redo one entry and bring everything that depends on it along."""
        if self._live is not None:
            self._record(Entry("drag", prompts=PromptEdit(self._live, self._prompts.snapshot())))
            self._live = None
        self._interrupt()
        entry = move()
        if entry is None:
            return False
        if entry.ids is not None:
            self.object_id = entry.ids[1]
        if entry.objects is not None:
            self._put_objects(self._objects.changed(entry.objects.after))
        if entry.patches:
            self.labels_changed.emit(entry.patches)
        self.history_changed.emit()
        self._ask()
        return True

    def _put_objects(self, objects: ObjectTable) -> None:
        self._objects = objects
        self.objects_changed.emit()

    def _record(self, entry: Entry) -> None:
        self._journal.record(entry)
        self.history_changed.emit()

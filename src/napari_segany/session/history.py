"""The journal: one line of undo and redo through prompts, commits and label edits made by hand."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from napari_segany.core.masks import LabelPatch, LabelSink

from .objects import ObjectsEdit, note_of
from .prompts import PromptEdit, PromptStore
from .records import RecordsEdit


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One step that a person would call one action.

    Attributes
    ----------
    title
        For the history shown to people.
    patches
        Label regions before and after; empty for a change of prompts only.
    prompts
        The change of prompts, if any.
    ids
        The current object id before and after.
    records
        The change of what is known of the objects of a stack, if any; the session puts it in place.
    objects
        The change of what is known of committed objects, if any; likewise.
    """

    title: str
    patches: tuple[LabelPatch, ...] = ()
    prompts: PromptEdit | None = None
    ids: tuple[int, int] | None = None
    records: RecordsEdit | None = None
    objects: ObjectsEdit | None = None

    @property
    def nbytes(self) -> int:
        """Memory that the label regions hold, in bytes (prompts are small)."""
        return sum(patch.nbytes for patch in self.patches)

    def reversed(self) -> Entry:
        """Return the step that takes this one back."""
        prompts = self.prompts and PromptEdit(self.prompts.after, self.prompts.before)
        records = self.records and RecordsEdit(self.records.after, self.records.before)
        objects = self.objects and ObjectsEdit(self.objects.after, self.objects.before)
        patches = tuple(patch.reversed() for patch in reversed(self.patches))
        ids = self.ids and self.ids[::-1]
        return replace(self, patches=patches, prompts=prompts, ids=ids, records=records, objects=objects)


Noted = Callable[[Entry, LabelPatch], Mapping[str, object] | None]
"""Says what a sink should note beside a region that a step writes."""


class Journal:
    """Applies steps backwards and forwards on a prompt store and a label sink.

    A region is only written back where it still holds what the step left there: pixels that something else
    changed since keep their newer value. A step whose regions could not be written stays where it was in the line:
    undo or redo can be tried again.
    """

    def __init__(
        self,
        *,
        prompts: PromptStore,
        sink: LabelSink,
        max_bytes: int = 1 << 28,
        noted: Noted = lambda entry, patch: None,
    ) -> None:
        self._prompts = prompts
        self._sink = sink
        self._noted = noted
        self._max_bytes = max_bytes
        self._done: deque[Entry] = deque()
        self._undone: list[Entry] = []

    @property
    def undo_title(self) -> str | None:
        """What undo would take back, or None."""
        return self._done[-1].title if self._done else None

    @property
    def redo_title(self) -> str | None:
        """What redo would repeat, or None."""
        return self._undone[-1].title if self._undone else None

    @property
    def done(self) -> tuple[Entry, ...]:
        """The steps that stand, oldest first."""
        return tuple(self._done)

    @property
    def undone(self) -> tuple[Entry, ...]:
        """The steps that were taken back and can be repeated, the next one last."""
        return tuple(self._undone)

    def record(self, entry: Entry) -> None:
        """Remember a step that is already applied; what was undone before it is gone."""
        self._undone.clear()
        self._done.append(entry)
        while len(self._done) > 1 and sum(e.nbytes for e in self._done) > self._max_bytes:
            self._done.popleft()

    def amend(self, entry: Entry, longer: Entry) -> bool:
        """Put a longer version of a step in its place; False if the step does not stand any more."""
        for place in range(len(self._done) - 1, -1, -1):
            if self._done[place] is entry:
                self._done[place] = longer
                return True
        return False

    def undo(self) -> Entry | None:
        """Take the last step back and return it reversed, or None when there is none."""
        if not self._done:
            return None
        applied = self._apply(self._done[-1].reversed())
        self._undone.append(self._done.pop())
        return applied

    def redo(self) -> Entry | None:
        """Repeat the step undone last and return it, or None when there is none."""
        if not self._undone:
            return None
        applied = self._apply(self._undone[-1])
        self._done.append(self._undone.pop())
        return applied

    def _apply(self, entry: Entry) -> Entry:
        """Write the regions and prompts of a step, and return what was written."""
        written = [
            apply_patch(patch, sink=self._sink, note=self._noted(entry, patch)) for patch in entry.patches
        ]
        if entry.prompts is not None:
            self._prompts.restore(entry.prompts.after)
        return replace(entry, patches=tuple(patch for patch in written if patch is not None))


def apply_patch(
    patch: LabelPatch, *, sink: LabelSink, note: Mapping[str, object] | None = None
) -> LabelPatch | None:
    """Write a region where the labels still are as the patch expects and return what was written."""
    before, after = patch.before, patch.after
    current = sink.read(patch.index, patch.slices)
    changes = (before != after) & (current == before)
    if not changes.any():
        return None
    written = np.where(changes, after, current)
    fitted = LabelPatch(index=patch.index, row0=patch.row0, col0=patch.col0, before=current, after=written)
    sink.write(fitted, note=note)
    return fitted


def noted_objects(entry: Entry, patch: LabelPatch) -> Mapping[str, object] | None:
    """Return what to note beside a region that undo or redo writes: the committed objects that come or go with it."""
    return note_of(entry.objects.after) if entry.objects is not None else None

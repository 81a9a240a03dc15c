"""The journal: one line of undo and redo through prompts, commits and label edits made by hand."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from napari_segany.core.masks import LabelPatch, LabelSink

from .prompts import PromptEdit, PromptStore


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
    """

    title: str
    patches: tuple[LabelPatch, ...] = ()
    prompts: PromptEdit | None = None
    ids: tuple[int, int] | None = None

    @property
    def nbytes(self) -> int:
        """Memory that the label regions hold, in bytes (prompts are small)."""
        return sum(patch.nbytes for patch in self.patches)

    def reversed(self) -> Entry:
        """Return the step that takes this one back."""
        prompts = self.prompts and PromptEdit(self.prompts.after, self.prompts.before)
        patches = tuple(patch.reversed() for patch in reversed(self.patches))
        return replace(self, patches=patches, prompts=prompts, ids=self.ids and self.ids[::-1])


class Journal:
    """Applies steps backwards and forwards on a prompt store and a label sink.

    A region is only written back where it still holds what the step left there: pixels that something else
    changed since keep their newer value.
    """

    def __init__(self, *, prompts: PromptStore, sink: LabelSink, max_bytes: int = 1 << 28) -> None:
        self._prompts = prompts
        self._sink = sink
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

    def record(self, entry: Entry) -> None:
        """Remember a step that is already applied; what was undone before it is gone."""
        self._undone.clear()
        self._done.append(entry)
        while len(self._done) > 1 and sum(e.nbytes for e in self._done) > self._max_bytes:
            self._done.popleft()

    def undo(self) -> Entry | None:
        """Take the last step back and return it reversed, or None when there is none."""
        if not self._done:
            return None
        entry = self._done.pop()
        self._undone.append(entry)
        return self._apply(entry.reversed())

    def redo(self) -> Entry | None:
        """Repeat the step undone last and return it, or None when there is none."""
        if not self._undone:
            return None
        entry = self._undone.pop()
        self._done.append(entry)
        return self._apply(entry)

    def _apply(self, entry: Entry) -> Entry:
        """Write the regions and prompts of a step, and return what was written."""
        written = [apply_patch(patch, sink=self._sink) for patch in entry.patches]
        if entry.prompts is not None:
            self._prompts.restore(entry.prompts.after)
        return replace(entry, patches=tuple(patch for patch in written if patch is not None))


def apply_patch(patch: LabelPatch, *, sink: LabelSink) -> LabelPatch | None:
    """Write a region where the labels still are as the patch expects and return what was written."""
    before, after = patch.before, patch.after
    current = sink.read(patch.index, patch.slices)
    changes = (before != after) & (current == before)
    if not changes.any():
        return None
    written = np.where(changes, after, current)
    fitted = LabelPatch(index=patch.index, row0=patch.row0, col0=patch.col0, before=current, after=written)
    sink.write(fitted)
    return fitted

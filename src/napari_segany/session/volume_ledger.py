"""Work on a stack written down beside its labels, change by change, and read again after a crash."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from napari_segany.core.errors import FileFormatError
from napari_segany.core.masks import LabelPatch, LabelSink

from .prompts import PlaneIndex
from .records import FrameResult, ObjectRecord, Records
from .volume_state import VolumeState, changes_of, result_row, with_changes

_logger = logging.getLogger(__name__)
_KEY = "stack"


class NotedCommit(Protocol):
    """One line of a ledger."""

    @property
    def note(self) -> Mapping[str, Any]:
        """What was said beside the labels, as JSON."""


@runtime_checkable
class NotingSink(LabelSink, Protocol):
    """A sink with a ledger. `io.LabelStore` is the real one."""

    def records(self) -> Sequence[NotedCommit]:
        """Return every line, oldest first."""

    def remark(self, note: Mapping[str, object]) -> None:
        """Add a line without labels, durably when this returns."""


@dataclass(eq=False)
class Notebook:
    """Keeps the ledger of a sink in step with a session; of a sink without a ledger, nothing is kept.

    Attributes
    ----------
    sink
        Where labels go.
    state
        What the ledger says so far.
    """

    sink: LabelSink
    state: VolumeState

    def read(self) -> VolumeState | None:
        """Return where the work on this stack was left, None if there was none."""
        if not isinstance(self.sink, NotingSink):
            return None
        is_new = True
        for number, commit in enumerate(self.sink.records(), start=1):
            changes = commit.note.get(_KEY)
            if changes is None or not self._is_here(changes):
                continue
            try:
                self.state = with_changes(self.state, changes)
            except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                raise FileFormatError(
                    f"line {number} of the ledger holds no work on a stack ({error!r}); the labels are not touched: "
                    "restore the ledger from a copy, or start a new store"
                ) from error
            is_new = False
        return None if is_new else self.state

    def write(self, state: VolumeState) -> None:
        """Bring the ledger to a state."""
        if isinstance(self.sink, NotingSink):
            changes = changes_of(self.state, state)
            if changes != changes_of(self.state, self.state):
                self.sink.remark({_KEY: changes})
        self.state = state

    def frame_note(self, frame: int, records: Records) -> dict[str, Any]:
        """Return what to note beside the labels of one frame: the results there that the ledger lacks."""
        rows = [
            {"id": object_id, "results": [result_row(frame, _result(records, object_id, frame))]}
            for object_id in self._changed_on(frame, records)
        ]
        return {_KEY: {"axis": self.state.axis, "at": list(self.state.at), "objects": rows}}

    def commit(
        self, patch: LabelPatch | None, note: Mapping[str, object], *, frame: int, records: Records
    ) -> None:
        """Write one frame of labels with its note, durably; the note alone where no pixel changes."""
        if patch is not None:
            self.sink.write(patch, note=note)
        elif isinstance(self.sink, NotingSink):
            self.sink.remark(note)
        known = self.state.records
        for object_id in self._changed_on(frame, records):
            result = _result(records, object_id, frame)
            record = known.objects.get(object_id, ObjectRecord())
            if result is None:
                known = known.put(object_id, record.without_result(frame))
            else:
                fresh = replace(result, is_stale=False) if result.is_stale else result
                known = known.put(object_id, record.with_results({frame: fresh}))
        self.state = replace(self.state, records=known)

    def _changed_on(self, frame: int, records: Records) -> list[int]:
        """Return the objects whose result on a frame is not the one in the ledger."""
        ids = sorted({*self.state.records.objects, *records.objects})
        return [i for i in ids if _result(self.state.records, i, frame) != _result(records, i, frame)]

    def _is_here(self, changes: Mapping[str, Any]) -> bool:
        here: tuple[int, PlaneIndex] = (self.state.axis, self.state.at)
        return isinstance(changes, Mapping) and (changes.get("axis"), tuple(changes.get("at", ()))) == here


def _result(records: Records, object_id: int, frame: int) -> FrameResult | None:
    record = records.objects.get(object_id)
    return None if record is None else record.results.get(frame)

"""What is known of committed objects: class, score, level; kept in step with undo, and in the ledger of a store."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_segany.core.granularity import check_level
from napari_segany.core.masks import LabelSink

from .answers import Preview
from .volume_ledger import NotingSink

_logger = logging.getLogger(__name__)
KEY, LEVEL_KEY = "objects", "chosen_level"
"""In the note of a commit: what is known of the objects that it changes, and the level that was chosen by then."""


@dataclass(frozen=True, slots=True)
class CommittedObject:
    """One committed object.

    Attributes
    ----------
    name
        Of its class, "" where nothing was named or no class fits.
    score
        Predicted IoU, 0 to 1; NaN where there is none.
    level
        Granularity, 1 (finest) to 6 (coarsest); 0 where it was found without prompts.
    """

    label: int
    name: str = ""
    score: float = math.nan
    level: int = 0

    def to_json(self) -> dict[str, object]:
        """Return the row as plain JSON values."""
        score = None if math.isnan(self.score) else round(self.score, 4)
        return {"label": self.label, "class": self.name, "score": score, "level": self.level}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> CommittedObject:  # Any: JSON
        """Return the row of JSON values; KeyError, TypeError or ValueError if they are not one."""
        score = content["score"]
        number = math.nan if score is None else float(score)
        return cls(int(content["label"]), str(content.get("class", "")), number, int(content["level"]))


Changes = Mapping[int, "CommittedObject | None"]
"""Rows by label, None where there is none."""


@dataclass(frozen=True, slots=True, eq=False)
class ObjectsEdit:
    """One change of what is known of objects: the rows that it replaces, and those in their place."""

    before: Changes
    after: Changes


@dataclass(frozen=True, slots=True, eq=False)
class ObjectTable:
    """Rows by label; never changed, only replaced."""

    rows: Mapping[int, CommittedObject] = field(default_factory=dict)

    @property
    def has_names(self) -> bool:
        """Whether an object has a class."""
        return any(row.name for row in self.rows.values())

    def edit(self, rows: Iterable[CommittedObject]) -> ObjectsEdit:
        """Return the change that puts rows in."""
        after: dict[int, CommittedObject | None] = {row.label: row for row in rows}
        return ObjectsEdit({label: self.rows.get(label) for label in after}, after)

    def changed(self, changes: Changes) -> ObjectTable:
        """Return the table after a change."""
        rows = {**self.rows, **changes}
        return ObjectTable({label: row for label, row in sorted(rows.items()) if row is not None})

    def features(self) -> dict[str, NDArray[np.generic]]:
        """Return a row for each object, as the features of a label layer: index, class, score, level."""
        rows = list(self.rows.values())
        return {
            "index": np.array([row.label for row in rows], dtype=np.int_),
            "class": np.array([row.name for row in rows], dtype=np.str_),
            "score": np.array([row.score for row in rows], dtype=np.float32),
            "level": np.array([row.level for row in rows], dtype=np.int_),
        }


def row_of(previews: Iterable[Preview], *, label: int) -> CommittedObject:
    """Return what is known of an object that is shown on some planes: what its largest mask says."""
    shown = max(previews, key=lambda preview: preview.area)
    return CommittedObject(label, shown.name, shown.score, shown.level)


def note_of(changes: Changes) -> dict[str, object]:
    """Return a change as JSON, for the note of a commit."""
    return {KEY: [row.to_json() if row is not None else {"label": label} for label, row in changes.items()]}


@dataclass(frozen=True, slots=True)
class Left:
    """What earlier work left in a ledger: objects that are known, and the level that was chosen last."""

    table: ObjectTable = field(default_factory=ObjectTable)
    level: int | None = None


def left_in(sink: LabelSink) -> Left:
    """Return what the ledger of a sink says; nothing for a sink without one."""
    return left_by(commit.note for commit in sink.records()) if isinstance(sink, NotingSink) else Left()


def left_by(notes: Iterable[Mapping[str, Any]]) -> Left:  # Any: JSON
    """Return what the notes of commits say in all, oldest first; a note of any other kind says nothing."""
    rows: dict[int, CommittedObject | None] = {}
    level: int | None = None
    for note in notes:
        try:
            rows |= _changes_in(note)
            level = check_level(note.get(LEVEL_KEY, level))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            _logger.warning("a note about objects cannot be read (%r); they have no class", error)
    return Left(ObjectTable().changed(rows), level)


def _changes_in(note: Mapping[str, Any]) -> dict[int, CommittedObject | None]:
    """Return the change that a note tells of; one from before there were classes names a label, or a range."""
    told = note.get(KEY)
    if told is None and {"label", "score", "level"} <= note.keys():
        told = [note]
    if told is None and "labels" in note:
        first, last = note["labels"]
        return {label: CommittedObject(label) for label in range(int(first), int(last) + 1)}
    return {
        int(one["label"]): CommittedObject.from_json(one) if "score" in one else None for one in told or ()
    }

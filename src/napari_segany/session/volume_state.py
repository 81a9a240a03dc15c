"""What of a volume session outlives it, as a value and as JSON: for saved states and for the ledger of a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .prompts import ObjectPrompts, PlaneIndex
from .records import Records


@dataclass(frozen=True, slots=True, eq=False)
class VolumeState:
    """What is needed to go on later.

    Attributes
    ----------
    axis, at
        Which leading axis counts the frames, and the indices on the others.
    object_id
        The object in work.
    prompts
        By (object_id, frame).
    records
        Results, names, colours, locks.
    interrupted
        Ranges of a propagation that did not come to its end.
    """

    axis: int
    at: PlaneIndex
    object_id: int
    prompts: Mapping[PlaneIndex, ObjectPrompts] = field(default_factory=dict)
    records: Records = field(default_factory=Records)
    interrupted: tuple[range, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the state as plain JSON values, of the form that `io.state.SavedStack` checks."""
        raise NotImplementedError

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> VolumeState:
        """Return the state of JSON values; FileFormatError if they are not of a stack."""
        raise NotImplementedError

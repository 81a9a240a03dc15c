"""What of a session outlives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .prompts import ObjectPrompts, PlaneIndex


@dataclass(frozen=True, slots=True, eq=False)
class SessionState:
    """What is needed to go on later.

    Attributes
    ----------
    object_id
        The label that the prompts in work will become.
    prompts
        In work, per plane.
    finished
        Prompts per plane of each object that was committed and not undone.
    level
        The granularity that is chosen, None for the best mask.
    classes
        Class names that masks are told apart by; none for the model's own list.
    """

    object_id: int
    prompts: Mapping[PlaneIndex, ObjectPrompts] = field(default_factory=dict)
    finished: Mapping[int, Mapping[PlaneIndex, ObjectPrompts]] = field(default_factory=dict)
    level: int | None = None
    classes: tuple[str, ...] = ()

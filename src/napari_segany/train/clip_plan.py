"""How clips are cut for training; apart from the cutting, because recipes are read without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """How clips are cut: `frames` of windows `side` wide, with `objects` each that appear `sizes` pixels large in them.

    `still_share` of the clips are made of still images, `reversed_share` run backwards, in `moving_share` the window
    goes with the object.
    """

    frames: int = 8
    side: int = 128
    objects: int = 2
    sizes: tuple[float, float] = (18.0, 72.0)
    still_share: float = 0.25
    reversed_share: float = 0.5
    moving_share: float = 0.6
    crops: int = 6
    rendered: tuple[int, int] = (224, 224)

"""How clips are cut for training; apart from the cutting, because recipes are read without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """Windows `side` wide, over `frames` frames, in which the chosen object is `sizes` pixels large."""

    side: int = 128
    frames: int = 8
    sizes: tuple[float, float] = (18.0, 72.0)


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """How clips are cut: windows with `objects` each.

    `large_share` of the batches have windows as `large`, the others as `usual`. `still_share` of the clips are made of
    still images, `reversed_share` run backwards, in `moving_share` the window goes with the object. One of `strides` is
    how many frames are passed over from one to the next; `ending_share` of the clips are cut where objects vanish. Of
    the masks that are followed, `spoilt_share` are spoilt before they are remembered. Kinds in `again` are rendered
    once more, each time that they are named, than the others.
    """

    usual: WindowPlan = WindowPlan()
    large: WindowPlan = WindowPlan(side=224, frames=5, sizes=(56.0, 150.0))
    large_share: float = 0.2
    objects: int = 2
    still_share: float = 0.2
    reversed_share: float = 0.5
    moving_share: float = 0.6
    strides: tuple[int, ...] = (1, 1, 2, 3)
    ending_share: float = 0.35
    spoilt_share: float = 0.0
    again: tuple[str, ...] = ("sheet", "shells", "shells", "phase")
    crops: int = 6
    rendered: tuple[int, int] = (224, 224)

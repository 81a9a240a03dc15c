"""The frames of a stack within a source of planes: one leading axis counts them, the others stay where they are."""

from __future__ import annotations

from dataclasses import dataclass

from napari_segany.core.errors import AxesError, PromptError
from napari_segany.core.types import AnyArray

from .prompts import PlaneIndex
from .source import PlaneSource


@dataclass(frozen=True, slots=True, eq=False)
class StackFrames:
    """Frames of one stack, read lazily: `[i]` is (H, W) or (H, W, C).

    Attributes
    ----------
    source
        (..., H, W) planes.
    axis
        Which leading axis counts the frames.
    at
        Indices on the other leading axes, in their order.
    over_time
        Whether frames are times and not planes: what is gone from a movie may come back.
    """

    source: PlaneSource
    axis: int = 0
    at: PlaneIndex = ()
    over_time: bool = False

    def __post_init__(self) -> None:
        lead = self.source.shape[:-2]
        if not 0 <= self.axis < len(lead):
            raise AxesError(
                f"axis {self.axis} is no frame axis of {self.source.name}, whose shape is {self.source.shape}; "
                f"use 0 to {len(lead) - 1}" + ("" if lead else ": it is a single plane")
            )
        sides = lead[: self.axis] + lead[self.axis + 1 :]
        if len(self.at) != len(sides) or any(not 0 <= i < n for i, n in zip(self.at, sides, strict=True)):
            raise AxesError(
                f"the other axes of {self.source.name} have {sides} planes; at={self.at} is not one"
            )

    def __len__(self) -> int:
        return int(self.source.shape[self.axis])

    def __getitem__(self, frame: int, /) -> AnyArray:
        return self.source.read(self.index(frame))

    @property
    def frame_shape(self) -> tuple[int, int]:
        """(H, W) of every frame."""
        height, width = self.source.shape[-2:]
        return height, width

    def index(self, frame: int) -> PlaneIndex:
        """Return the leading indices of a frame."""
        return (*self.at[: self.axis], int(frame), *self.at[self.axis :])

    def frame_at(self, index: PlaneIndex) -> int | None:
        """Return the frame of a plane, None if the plane is of another stack."""
        index = tuple(int(i) for i in index)
        return index[self.axis] if index[: self.axis] + index[self.axis + 1 :] == self.at else None

    def check(self, frame: int) -> int:
        """Return a frame; PromptError if there is no such frame."""
        if not 0 <= frame < len(self):
            raise PromptError(f"frame {frame} is not one of the {len(self)} of {self.source.name}")
        return int(frame)

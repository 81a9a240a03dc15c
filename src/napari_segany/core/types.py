"""Prompts, predictions and the protocols between layers: plain values that check themselves once, at birth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .errors import PromptError
from .intensity import Window

BoolMask: TypeAlias = NDArray[np.bool_]
Labels: TypeAlias = NDArray[np.uint32]
FloatArray: TypeAlias = NDArray[np.float32]
AnyArray: TypeAlias = NDArray[np.generic]
PackedFeatures: TypeAlias = tuple[dict[str, AnyArray], dict[str, object]]
"""Features as named arrays, and what else belongs to them, as JSON."""


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Clicks on one object: `coords` (N, 2) as (row, col) pixel centres, `positive` (N,)."""

    coords: FloatArray
    positive: BoolMask

    def __post_init__(self) -> None:
        coords = np.asarray(self.coords, dtype=np.float32)
        positive = np.asarray(self.positive, dtype=bool)
        if coords.ndim != 2 or coords.shape[1] != 2:
            raise PromptError(f"coords must have shape (N, 2) as (row, col), got {coords.shape}")
        if positive.shape != (len(coords),):
            raise PromptError(f"{len(coords)} points but signs of shape {positive.shape}")
        if not np.isfinite(coords).all():
            raise PromptError(f"coords must be finite, got {coords[~np.isfinite(coords).all(axis=1)][0]}")
        object.__setattr__(self, "coords", coords)
        object.__setattr__(self, "positive", positive)

    def __len__(self) -> int:
        return len(self.coords)

    def with_click(self, row: float, col: float, *, positive: bool) -> Points:
        """Return these points and one more, in click order."""
        return Points(
            np.vstack([self.coords, np.array([[row, col]], dtype=np.float32)]),
            np.append(self.positive, positive),
        )


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open box: `image[row0:row1, col0:col1]` is its content. Ends may be fractions of a pixel."""

    row0: float
    col0: float
    row1: float
    col1: float

    def __post_init__(self) -> None:
        ends = (self.row0, self.col0, self.row1, self.col1)
        if not np.isfinite(ends).all():
            raise PromptError(f"box ends must be finite, got {ends}")
        if self.row1 <= self.row0 or self.col1 <= self.col0:
            raise PromptError(
                f"box is empty or inverted: rows {self.row0}..{self.row1}, cols {self.col0}..{self.col1}"
            )

    @property
    def height(self) -> float:
        """Rows covered, in pixels."""
        return self.row1 - self.row0

    @property
    def width(self) -> float:
        """Columns covered, in pixels."""
        return self.col1 - self.col0


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """What a person says about one object; any part may be missing, but not all.

    `mask` is either (H, W) bool, a drawn mask in image pixels, or (h, w) float32, the `logits` of an earlier
    prediction on the same features, for refinement. `text` needs a model that reads words.
    """

    points: Points | None = None
    box: Box | None = None
    mask: BoolMask | FloatArray | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        if self.points is not None and len(self.points) == 0:
            object.__setattr__(self, "points", None)
        if self.points is None and self.box is None and self.mask is None and not self.text:
            raise PromptError("a prompt needs at least one point, a box, a mask or a text")
        if self.mask is not None:
            object.__setattr__(self, "mask", _checked_mask(self.mask))


def _checked_mask(mask: BoolMask | FloatArray) -> BoolMask | FloatArray:
    """Return a mask prompt as bool (drawn) or float32 (logits)."""
    array: NDArray[np.generic] = np.asarray(mask)
    if array.ndim != 2 or array.size == 0:
        raise PromptError(f"a mask prompt must be one 2D array, got shape {array.shape}")
    if array.dtype == np.bool_:
        return array.astype(bool, copy=False)
    if not np.issubdtype(array.dtype, np.floating):
        raise PromptError(
            f"a mask prompt must be bool (drawn) or float (logits), got {array.dtype}; use labels == id"
        )
    if not np.isfinite(array).all():
        raise PromptError("mask logits must be finite")
    return array.astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class MaskPrediction:
    """The answers to one prompt, best first.

    Attributes
    ----------
    masks : (M, H, W)
        In pixels of the image that was embedded.
    scores : (M,)
        Predicted IoU, 0 to 1.
    logits : (M, h, w)
        At the model's resolution, > 0 inside; a mask prompt for the next round.
    levels : (M,)
        Granularity, 1 (finest) to 6 (coarsest).
    names
        What each of the M masks shows, "" where no class fits; empty if nothing was named.
    """

    masks: BoolMask
    scores: FloatArray
    logits: FloatArray
    levels: NDArray[np.int_]
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def best(self) -> BoolMask:
        """The (H, W) mask with the highest score."""
        best: BoolMask = self.masks[0]
        return best


@dataclass(frozen=True, slots=True, eq=False)
class FrameMasks:
    """What propagation yields for one frame: `object_ids` (K,), `masks` (K, H, W), `scores` (K,).

    A negative score means that the object was judged absent.
    """

    frame: int
    object_ids: NDArray[np.int_]
    masks: BoolMask
    scores: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class ScoredMask:
    """One object found without prompts.

    Attributes
    ----------
    mask : (H, W)
        In pixels of the image.
    box
        The tightest around it.
    score, stability
        Its predicted IoU, and how little it depends on where its logits are cut; 0 to 1.
    level
        Step of the ladder, 1 (finest) to 6 (coarsest).
    name
        What it is, "" where no class fits or nothing was named.
    is_part
        Whether it was found as a part of another object, such as a nucleus in a cell.
    """

    mask: BoolMask
    box: Box
    score: float
    stability: float
    level: int
    name: str = ""
    is_part: bool = False


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a session needs to know about the model behind a predictor.

    `has_fine` says whether it draws fine boundaries, `finds_instances` whether it segments without prompts,
    `has_words` whether it names what it finds (`Namer`), `number_format` what its encoder computes in, such as
    "bfloat16": features of one are not those of another. `has_ladder` says whether it has a mask for each of the six
    levels of the ladder for every prompt, also for a correction.
    """

    name: str
    weights_sha256: str
    licence: str = ""
    has_fine: bool = False
    finds_instances: bool = False
    number_format: str = ""
    has_words: bool = False
    has_ladder: bool = False


@runtime_checkable
class FeaturesLike(Protocol):
    """What an encoder returns for one image: a value that sessions pass on and never open."""

    @property
    def image_shape(self) -> tuple[int, int]:
        """(H, W) of the embedded image."""

    @property
    def window(self) -> Window:
        """The intensity window that was used."""

    @property
    def nbytes(self) -> int:
        """Memory that the features hold, in bytes."""


@runtime_checkable
class ImagePredictorLike(Protocol):
    """Image in, features out; features and a prompt in, masks out. `predict.ImagePredictor` is the real one."""

    @property
    def card(self) -> ModelCard:
        """Who answers."""

    def embed(self, image: AnyArray, *, window: Window | None = None) -> FeaturesLike:
        """Return the features of one (H, W) or (H, W, C) image."""

    def predict(
        self, features: FeaturesLike, prompt: Prompt, *, multimask: bool = True, fine: bool | None = None
    ) -> MaskPrediction:
        """Return the masks of one prompt; `fine` boundaries if asked for, None for what the model is made for."""

    def predict_many(
        self,
        features: FeaturesLike,
        prompts: Sequence[Prompt],
        *,
        multimask: bool = True,
        fine: bool | None = None,
    ) -> list[MaskPrediction]:
        """Return the masks of many prompts, in their order."""


@runtime_checkable
class Namer(Protocol):
    """A predictor that names masks, where `card.has_words` says so."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names that masks are told apart by."""

    def naming(self, classes: Sequence[str]) -> ImagePredictorLike:
        """Return a predictor with the same model that tells masks apart by these class names, none for no names.

        Features of the one serve the other. A CapabilityError if the model knows no words.
        """


class FrameSource(Protocol):
    """Frames of one stack, read lazily: NumPy, dask, zarr, a list. `[i]` is (H, W) or (H, W, C)."""

    def __len__(self) -> int:
        """How many frames there are."""

    def __getitem__(self, index: int, /) -> AnyArray:
        """Read one frame."""


class VideoStateLike(Protocol):
    """A stack that is open in a predictor, with its prompts and what is remembered; for one thread at a time."""

    @property
    def n_frames(self) -> int:
        """How many frames there are."""

    @property
    def frame_shape(self) -> tuple[int, int]:
        """(H, W) of every frame."""

    @property
    def window(self) -> Window:
        """The intensity window of all frames."""

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Objects with a prompt, in the order they came."""

    def prompted(self, object_id: int) -> tuple[int, ...]:
        """Return the frames on which an object has a prompt, in order."""

    def stale(self, object_id: int) -> frozenset[int]:
        """Return the frames that `propagate` would work out for an object: never answered, or outdated."""


@runtime_checkable
class VideoPredictorLike(Protocol):
    """Follows objects through a stack from prompts on any of its frames. `predict.VideoPredictor` is the real one."""

    @property
    def card(self) -> ModelCard:
        """Who answers."""

    def open(self, frames: FrameSource, *, window: Window | None = None) -> VideoStateLike:
        """Return the state of a stack without prompts; one intensity window for all frames."""

    def prompt(self, state: VideoStateLike, prompt: Prompt, *, frame: int, object_id: int) -> FrameMasks:
        """Say all that is known of an object on a frame, in place of what was said before; return its mask there.

        What it contradicts nearby becomes stale. K is 1.
        """

    def propagate(self, state: VideoStateLike, frames: range) -> Iterator[FrameMasks]:
        """Follow all objects through a range, in its direction (`range(5, -1, -1)` goes back to frame 0).

        Yields the frames that had stale objects, and in them these objects alone. To stop, stop iterating.
        """

    def forget(self, state: VideoStateLike, *, object_id: int, frame: int | None = None) -> None:
        """Take back the prompt of an object on a frame, or the object altogether."""

    def recall(
        self, state: VideoStateLike, *, frame: int, object_id: int, mask: BoolMask, score: float
    ) -> None:
        """Take in a mask that was found before, as if it had just been: how work goes on after a restart.

        The object needs no prompt for it; the frame is not stale any more.
        """


@runtime_checkable
class FeaturePacker(Protocol):
    """A predictor whose features can be kept on disk: taken apart into plain arrays, and put together again."""

    def pack(self, features: FeaturesLike) -> PackedFeatures:
        """Return the features as named arrays, and everything else that `unpack` needs as JSON.

        Floating arrays may come back rounded to half precision.
        """

    def unpack(self, arrays: dict[str, AnyArray], description: dict[str, object]) -> FeaturesLike:
        """Return what `pack` took apart; a SegAnyError if it does not fit this model."""

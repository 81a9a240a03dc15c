"""What every family is to a predictor: images become features, features and prompts become masks."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn

from .mask_decoder import FineUse, MaskOutput
from .two_way import FirstLook


@dataclass(frozen=True, slots=True)
class ImageModelConfig:
    """What predictors need to know of a model, whatever its family.

    `image_size` is the frame's side in pixels and `stride` that of the image embedding. `resizing` says how an image
    fills the frame: stretched to a square ("stretch"), at the top left with its aspect kept and zeros beside it
    ("pad"), with its aspect kept and nothing beside it ("fit"), or with `image_size` as its shorter side and zeros up
    to a multiple of 32 ("short"). "fit" gives larger images frames of up to `largest_size` on their longer side.
    `is_local` models look at small objects again, magnified, and drop stray islands of a mask; the released models
    answer as published.
    """

    name: str
    _: KW_ONLY
    image_size: int = 1024
    stride: int = 16
    resizing: str = "stretch"
    largest_size: int = 1024
    is_local: bool = False

    @property
    def has_fine(self) -> bool:
        """Whether the model draws fine boundaries."""
        return False

    @property
    def has_words(self) -> bool:
        """Whether the model names what it finds."""
        return False


@dataclass(frozen=True, slots=True, eq=False)
class ImageFeatures:
    """What the decoder needs of B images.

    Attributes
    ----------
    embedding : (B, C, h, w)
    fine : (B, C / 8, 4h, 4w), (B, C / 4, 2h, 2w), ...
        SAM 2's high-resolution maps; then the fine head's map of the image, where the model has one.
    look
        The decoder's first look at one image without an earlier mask, where it was taken (`Promptable.prepared`).
    origin
        Where their first pixel lies in the frame, (x, y) in frame pixels, if they are those of a part of one. Prompts
        are in the part's own pixels.
    """

    embedding: Tensor
    fine: tuple[Tensor, ...] = ()
    look: FirstLook | None = None
    origin: tuple[float, float] = (0.0, 0.0)

    def of(self, index: Tensor) -> ImageFeatures:
        """Return the features of images `index` (N,), one row for each prompt."""
        fine = tuple(level[index] for level in self.fine)
        return ImageFeatures(self.embedding[index], fine, origin=self.origin)

    def part(self, rows: slice, cols: slice, *, stride: int) -> ImageFeatures:
        """Return the features of some rows and columns of the embedding; nothing is copied."""
        fine = []
        for level in self.fine:
            times = level.shape[2] // self.embedding.shape[2]
            across, along = (slice(times * ends.start, times * ends.stop) for ends in (rows, cols))
            fine.append(level[:, :, across, along])
        origin = (self.origin[0] + stride * cols.start, self.origin[1] + stride * rows.start)
        return ImageFeatures(self.embedding[:, :, rows, cols], tuple(fine), origin=origin)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> ImageFeatures:
        """Return the features on a device, in a number format."""
        fine = tuple(x.to(device, dtype) for x in self.fine)
        look = None if self.look is None else self.look.to(device, dtype)
        return ImageFeatures(self.embedding.to(device, dtype), fine, look, self.origin)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        look = 0 if self.look is None else self.look.nbytes
        return look + sum(tensor.nbytes for tensor in (self.embedding, *self.fine))


class ImageModel(nn.Module):
    """A model that answers prompts on encoded images."""

    config: ImageModelConfig
    image_encoder: nn.Module

    def encode(self, pixels: Tensor) -> ImageFeatures:
        """Return the features of (B, 3, H, W) normalised pixels."""
        raise NotImplementedError

    def encoder_parts(self) -> list[nn.Module]:
        """Return the modules that images alone pass through; they may run in another number format than prompts."""
        raise NotImplementedError

    def memory_parts(self) -> list[nn.Module]:
        """Return the modules of a memory that may run in the encoder's number format; most models have none."""
        return []

    def frame_of(self, features: ImageFeatures) -> tuple[int, int]:
        """Return (H, W) of the frame that features are of, in pixels."""
        height, width = features.embedding.shape[2:]
        return height * self.config.stride, width * self.config.stride

    def prepared(self, features: ImageFeatures) -> ImageFeatures:
        """Return the features of one image with what every prompt on it would work out anew."""
        return features

    def sides(self, features: ImageFeatures, xy: Tensor) -> Tensor | None:
        """Return how long the objects may be that (N, 2) places (x, y) lie in, (N,), all in frame pixels.

        Bounds of their longer sides are foretold from the features of one image; None in models that foretell nothing.
        """
        return None

    def decode(
        self,
        features: ImageFeatures,
        xy: Tensor,
        labels: Tensor,
        *,
        masks: Tensor | None = None,
        multimask: bool = True,
        fine: FineUse = "off",
    ) -> MaskOutput:
        """Return the masks of each of B prompts, or the one that the model would show.

        Parameters
        ----------
        features
            Of one image.
        xy : (B, N, 2)
            (x, y) in frame pixels.
        labels : (B, N)
        masks : (B, 1, 4h, 4w)
            Earlier logits.
        """
        raise NotImplementedError

    def finish(self, output: MaskOutput, *, within: Tensor | None = None) -> MaskOutput:
        """Return an answer with what was left for last; `within` (B, M, h, w) says where anything may be changed."""
        return output

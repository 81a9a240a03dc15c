"""Features of one image: a value that can be kept, packed into plain arrays, and put together again."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from napari_segany.core.errors import ImageError
from napari_segany.core.geometry import ResizeMap
from napari_segany.core.intensity import Window
from napari_segany.core.types import AnyArray, ModelCard, PackedFeatures
from napari_segany.models.image_model import ImageFeatures

from .zoom import View


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What one image looks like to one model.

    `rgb` (1, 3 or 1, H, W), 0 to 1 in half precision, is there for models that look at small objects again; `views`
    are the windows looked at so far, the most recent last. `stride` is that of the embedding, in frame pixels.
    """

    tensors: ImageFeatures
    resize: ResizeMap
    window: Window
    model: ModelCard
    stride: int
    rgb: Tensor | None = None
    views: OrderedDict[tuple[int, int, int, int], View] = field(default_factory=OrderedDict)

    @property
    def image_shape(self) -> tuple[int, int]:
        """(H, W) of the embedded image."""
        return self.resize.source

    @property
    def nbytes(self) -> int:
        """Memory that the features hold, in bytes."""
        rgb = 0 if self.rgb is None else self.rgb.nbytes
        return rgb + self.tensors.nbytes + sum(view.tensors.nbytes for view in self.views.values())

    @property
    def logits_shape(self) -> tuple[int, int]:
        """(h, w) of the mask logits that belong to these features; they cover the frame, padding included."""
        height, width = self.tensors.embedding.shape[2:]
        return 4 * height, 4 * width

    @property
    def frame_shape(self) -> tuple[int, int]:
        """(h, w) of the model's frame, in its pixels; the image fills `resize.target` of it."""
        height, width = self.tensors.embedding.shape[2:]
        return height * self.stride, width * self.stride


def pack(features: Features) -> PackedFeatures:
    """Return features as half-precision arrays and a description; views are left out, they are made again quickly."""
    arrays: dict[str, AnyArray] = {"embedding": _half(features.tensors.embedding)}
    arrays |= {f"fine{i}": _half(level) for i, level in enumerate(features.tensors.fine)}
    if features.rgb is not None:
        arrays["rgb"] = _half(features.rgb)
    description: dict[str, object] = {
        "source": list(features.resize.source),
        "target": list(features.resize.target),
        "window": [features.window.low, features.window.high],
        "stride": features.stride,
    }
    return arrays, description


def unpack(
    arrays: dict[str, AnyArray], description: dict[str, object], *, model: ModelCard, device: torch.device
) -> Features:
    """Return what `pack` took apart.

    Raises
    ------
    ImageError
        If arrays or description are not those of `pack`.
    """
    try:
        fine = sorted(name for name in arrays if name.startswith("fine"))
        embedding, *levels = (
            torch.from_numpy(np.asarray(arrays[name])).to(device).float() for name in ("embedding", *fine)
        )
        source, target, window = (_pair(description[key]) for key in ("source", "target", "window"))
        rgb = torch.from_numpy(np.asarray(arrays["rgb"])) if "rgb" in arrays else None
        stride = int(description["stride"])  # type: ignore[call-overload]  # JSON
        tensors = ImageFeatures(_packed_last(embedding), tuple(_packed_last(level) for level in levels))
        return Features(
            tensors, ResizeMap(_sizes(source), _sizes(target)), Window(*window), model, stride=stride, rgb=rgb
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ImageError(
            f"stored features do not fit {model.name} ({type(error).__name__}: {error}); embed the image again"
        ) from error


def _pair(value: object) -> tuple[float, float]:
    """Return two numbers of a description."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise TypeError(f"{value!r} is not a pair")
    return float(value[0]), float(value[1])


def _sizes(pair: tuple[float, float]) -> tuple[int, int]:
    """Return two numbers of pixels."""
    return int(pair[0]), int(pair[1])


def _half(tensor: Tensor) -> AnyArray:
    """Return a tensor as an array in half precision, or in full where that would overflow."""
    half = tensor.detach().cpu().to(torch.float16)
    return np.asarray((half if bool(torch.isfinite(half).all()) else tensor.cpu().float()).numpy())


def _packed_last(tensor: Tensor) -> Tensor:
    """Return a (B, C, H, W) tensor with its channels last in memory, as the decoder likes it."""
    return tensor.contiguous(memory_format=torch.channels_last)

"""The compact format of the bundled weights: safetensors with int8 matrices and float16 for everything else.

A float tensor of two or more axes and at least 4096 elements is stored as int8 under its key, with one
float16 scale per row under `key::scale`; a row is one index of the first axis that is longer than 1. Other
float tensors are stored as float16, or as float32 where they hold more than float16 can; integers as they
are. A file is half the size of a float16 one, and an int8 entry is off by at most half its row's scale,
1/254 of the row's largest magnitude.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_segany.core.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "segany-packed-1"
SCALE_SUFFIX = "::scale"
_SMALLEST_PACKED = 4096
_LARGEST_HALF = 65504.0


def pack(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the same weights in the stored types, with a scale beside each int8 tensor."""
    packed: dict[str, Tensor] = {}
    for key, given in weights.items():
        if key.endswith(SCALE_SUFFIX):
            raise WeightsError(f"cannot pack {key!r}: keys ending in {SCALE_SUFFIX!r} are the format's own")
        tensor = given.detach().cpu()
        if not tensor.is_floating_point():
            packed[key] = tensor.contiguous()
        elif tensor.ndim >= 2 and tensor.numel() >= _SMALLEST_PACKED:
            packed[key], packed[key + SCALE_SUFFIX] = _quantised(tensor, key=key)
        else:
            packed[key] = _halved(tensor)
    return packed


def unpack(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return stored weights as float32 (integers stay what they are), without the scales."""
    weights: dict[str, Tensor] = {}
    for key, tensor in stored.items():
        if key.endswith(SCALE_SUFFIX):
            if key.removesuffix(SCALE_SUFFIX) not in stored:
                raise WeightsError(f"{key!r} is a scale without its tensor: the packed file is damaged")
        elif (scale := stored.get(key + SCALE_SUFFIX)) is not None:
            rows = _rows_of(tuple(tensor.shape))
            if tuple(scale.shape) != (rows,):
                raise WeightsError(f"{key!r} has {rows} rows but scales of shape {tuple(scale.shape)}")
            weights[key] = (tensor.float().reshape(rows, -1) * scale.float()[:, None]).reshape(tensor.shape)
        else:
            weights[key] = tensor.float() if tensor.is_floating_point() else tensor
    return weights


def write_packed(path: Path, weights: Mapping[str, Tensor], *, metadata: Mapping[str, str]) -> Path:
    """Write weights in the packed format, all or nothing, and return the path.

    Parameters
    ----------
    path
        Overwritten if it exists.
    weights
        Any float type; must be finite.
    metadata
        Text that travels in the file's header: model name, configuration as JSON, licence, recipe.
    """
    from safetensors.torch import save_file

    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    try:
        save_file(pack(weights), part, metadata={**metadata, "format": FORMAT})
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _rows_of(shape: tuple[int, ...]) -> int:
    """Return how many rows, each with a scale of its own, a tensor of this shape has."""
    return next((side for side in shape if side > 1), 1)


def _quantised(tensor: Tensor, *, key: str) -> tuple[Tensor, Tensor]:
    """Return a tensor as int8 and the float16 scale of each of its rows."""
    import torch

    rows = tensor.float().reshape(_rows_of(tuple(tensor.shape)), -1)
    largest = rows.abs().amax(dim=1).numpy()
    if not np.isfinite(largest).all() or (largest > 127 * _LARGEST_HALF).any():
        raise WeightsError(
            f"cannot pack {key!r}: it holds values that are not finite, or too large for its scale"
        )
    scale = (largest / 127).astype(np.float16)
    # Rounded up, never down: the largest entry must not need a 128th step.
    scale = np.where(scale.astype(np.float32) * 127 < largest, np.nextafter(scale, np.float16(np.inf)), scale)
    steps = torch.from_numpy(np.where(scale > 0, scale, 1).astype(np.float32))
    whole = (rows / steps[:, None]).round().to(torch.int8)
    return whole.reshape(tensor.shape).contiguous(), torch.from_numpy(scale.astype(np.float16))


def _halved(tensor: Tensor) -> Tensor:
    """Return a tensor as float16, or as float32 where float16 would overflow."""
    import torch

    fits = tensor.numel() == 0 or bool(tensor.abs().max() <= _LARGEST_HALF)
    return tensor.to(torch.float16 if fits else torch.float32).contiguous()

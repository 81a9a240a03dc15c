"""Weights: found, read, told apart, and loaded into a module strictly or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from napari_segany.core.errors import WeightsError

from .download import (
    find_decoder,
    find_weights,
    local_decoder,
    local_weights,
    origin_sha256,
    sha256_of,
    weights_dir,
)
from .packed import pack, unpack, write_packed
from .reading import identify, read_metadata, read_weights, split_decoder

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "find_decoder",
    "find_weights",
    "identify",
    "load_strictly",
    "local_decoder",
    "local_weights",
    "origin_sha256",
    "pack",
    "read_metadata",
    "read_weights",
    "sha256_of",
    "split_decoder",
    "unpack",
    "weights_dir",
    "write_packed",
]

_LISTED = 10


def load_strictly(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    key_map: Callable[[str], str | None] | None = None,
    where: str | Path,
) -> None:
    """Put weights into a module: every key and shape must match, or nothing is loaded.

    Parameters
    ----------
    module
        If it is on the meta device, it takes the tensors themselves, without a copy.
    weights
        Tensors by the file's keys.
    key_map
        Gives the module's key for a file's key, or None for a key that the module has no use for. By default
        keys are the same.
    where
        What the weights came from, for messages.

    Raises
    ------
    WeightsError
        Naming the first missing, unexpected and misshapen keys.
    """
    import torch

    mapped = _mapped(weights, key_map=key_map, where=where)
    expected = module.state_dict()
    problems = [
        *_listed("missing", [key for key in expected if key not in mapped]),
        *_listed("unexpected", [key for key in mapped if key not in expected]),
        *_listed(
            "of another shape",
            [
                f"{key} {tuple(mapped[key].shape)} instead of {tuple(tensor.shape)}"
                for key, tensor in expected.items()
                if key in mapped and mapped[key].shape != tensor.shape
            ],
        ),
    ]
    if problems:
        raise WeightsError(
            f"{where} does not fit {type(module).__name__}: {'; '.join(problems)}. {_advice(weights)}"
        )
    is_meta = any(tensor.device == torch.device("meta") for tensor in expected.values())
    if is_meta:
        mapped = {key: mapped[key].to(tensor.dtype) for key, tensor in expected.items()}
    module.load_state_dict(mapped, strict=True, assign=is_meta)


def _mapped(
    weights: Mapping[str, Tensor], *, key_map: Callable[[str], str | None] | None, where: str | Path
) -> dict[str, Tensor]:
    """Return the weights under the module's keys."""
    if key_map is None:
        return dict(weights)
    mapped: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        target = key_map(key)
        if target is None:
            continue
        if target in mapped:
            raise WeightsError(f"{where}: two keys, {key!r} among them, stand for {target!r}")
        mapped[target] = tensor
    return mapped


def _listed(what: str, keys: list[str]) -> list[str]:
    """Return one phrase with the first keys, or none if there are no keys."""
    if not keys:
        return []
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return [f"{len(keys)} {what}: {', '.join(keys[:_LISTED])}{more}"]


def _advice(weights: Mapping[str, Tensor]) -> str:
    """Return what to do about weights of another model."""
    name = identify(weights)
    if name is not None:
        return f"These weights have the layout of {name!r}: load them as that model"
    return "Check that the file belongs to this model; `segany models` lists those that load by name"

"""Weights files: read safely and told apart. A file is judged by its content, never by its suffix.

Understood are safetensors and what `torch.save` writes: a state dict, bare or inside {"model": ...} or
{"state_dict": ...}, and the files of micro-sam and torch_em, {"model_state": ..., "decoder_state": ...}.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from napari_segany.core.errors import WeightsError

from .packed import FORMAT as PACKED_FORMAT
from .packed import unpack
from .pickles import ACCEPTED, TRAINED, ZIP, read_pickle
from .registry import list_models

if TYPE_CHECKING:
    from torch import Tensor

DECODER_PREFIX = "decoder."
"""Before the keys of micro-sam's decoder, where a file holds a model and its decoder."""

_WRAPPERS = ("model", "state_dict")
_VARIANCE = "running_var"  # of a batch norm
_PREFIXES = ("module.", "model.", "sam.", "_orig_mod.")  # of training code around a model
_LOSSES = re.compile(
    r"(?:(?:module|model|_orig_mod)\.)*criterion\."
)  # what Semantic-SAM's training keeps in a model
_TRAINABLE = "sam."  # before every key of a model that torch_em trained
_ENCODER = "image_encoder."


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weights file by key, on the CPU, in the types they are stored in.

    Reads safetensors (packed ones come back as float32) and what `torch.save` writes. Runs no code from the file,
    and maps it rather than copies it. What training code put before every key ("module.", "sam.") is taken off
    where that makes the model known, and what it keeps of its losses ("criterion.") is left out; the keys of a decoder
    in the same file start with "decoder.".

    Raises
    ------
    WeightsError
        If there is no such file, or it is empty, truncated, hostile, or holds more than finite tensors.
    """
    path = Path(path)
    head = _head_of(path)
    if _is_safetensors(path, head=head):
        weights = _read_safetensors(path)
    else:
        weights = _parts_joined(read_pickle(path, head=head), path=path)
    _check_values(weights, path=path)
    model, decoder = split_decoder(_without_losses(weights))
    return _joined(_unprefixed(model), decoder)


def read_metadata(path: Path) -> dict[str, str]:
    """Return the text in a safetensors file's header (model, configuration, ...), nothing for other files."""
    path = Path(path)
    if not _is_safetensors(path, head=_head_of(path)):
        return {}
    with _opened(path) as stored:
        return dict(stored.metadata() or {})


def identify(weights: Mapping[str, Tensor]) -> str | None:
    """Return the name of the registry row whose layout a state dict has, or None; a decoder beside it is ignored.

    So are prefixes of training code before every key, as Semantic-SAM's files have them ("model.").
    A fine-tuned file has the layout of what it was tuned from: micro-sam's are found to be "sam_vit_b" and so on.
    """
    return _row_of(_unprefixed(split_decoder(weights)[0]))


def split_decoder(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """Return (model, decoder) of what `read_weights` gave, both under their own keys; None if there is no decoder."""
    if not any(key.startswith(_ENCODER) for key in weights):  # a decoder alone has such keys of its own
        return dict(weights), None
    model = {key: tensor for key, tensor in weights.items() if not key.startswith(DECODER_PREFIX)}
    decoder = {
        key.removeprefix(DECODER_PREFIX): tensor
        for key, tensor in weights.items()
        if key.startswith(DECODER_PREFIX)
    }
    return model, decoder or None


def _row_of(model: Mapping[str, Tensor]) -> str | None:
    """Return the name of the row whose layout a model's state dict has, or None."""
    shapes = {key: tuple(tensor.shape) for key, tensor in model.items()}
    return next((spec.name for spec in list_models() if spec.layout.fits(shapes)), None)


def _unprefixed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without what training code puts before every key, if that makes them known."""
    stripped = weights
    while stripped and _row_of(stripped) is None:
        prefix = next((one for one in _PREFIXES if all(key.startswith(one) for key in stripped)), None)
        if prefix is None:
            return weights
        stripped = {key.removeprefix(prefix): tensor for key, tensor in stripped.items()}
    return stripped


def _without_losses(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without what belongs to the training's losses; if there is nothing else, all of them."""
    kept = {key: tensor for key, tensor in weights.items() if not _LOSSES.match(key)}
    return kept or dict(weights)


def _head_of(path: Path) -> bytes:
    """Return the first bytes of a file that could be weights."""
    if path.is_dir():
        raise WeightsError(f"{path} is a folder; give the weights file in it ({ACCEPTED})")
    try:
        with path.open("rb") as stream:
            head = stream.read(512)
    except FileNotFoundError:
        raise WeightsError(
            f"there is no weights file {path}; check the path, or load a model by name"
        ) from None
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    if not head:
        raise WeightsError(f"{path} is empty: download or copy it again")
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise WeightsError(
            f"{path} is a web page, not weights: the download was answered by a page; download it again"
        )
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(
            f"{path} is a Git LFS pointer, not weights: fetch the file itself, with `git lfs pull`"
        )
    return head


def _is_safetensors(path: Path, *, head: bytes) -> bool:
    """Return whether a file starts as safetensors do, or claims to be one by its suffix."""
    starts_so = len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30
    return starts_so or (path.suffix == ".safetensors" and not head.startswith(ZIP))


def _opened(path: Path):  # type: ignore[no-untyped-def]  # safetensors has no types
    """Return a safetensors file, open for reading."""
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} is truncated or no safetensors file ({error}); download or copy it again"
        ) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, unpacked if they were packed."""
    with _opened(path) as stored:
        weights = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118  (the file is no dict)
        is_packed = (stored.metadata() or {}).get("format") == PACKED_FORMAT
    if not is_packed:
        return weights
    try:
        return unpack(weights)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def _parts_joined(content: object, *, path: Path) -> dict[str, Tensor]:
    """Return the weights in what `torch.save` wrote: a state dict, or a model's and a decoder's in one."""
    if not isinstance(content, dict) or not any(isinstance(content.get(part), dict) for part in TRAINED):
        return _state_dict(content, path=path)
    parts = {part: _state_dict(content[part], path=path) for part in TRAINED if content.get(part)}
    decoder = parts.get("decoder_state")
    if "model_state" not in parts:
        return decoder or {}
    model = parts["model_state"]
    if all(key.startswith(_TRAINABLE) for key in model):
        model = {key.removeprefix(_TRAINABLE): tensor for key, tensor in model.items()}
    return _joined(model, decoder)


def _joined(model: Mapping[str, Tensor], decoder: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Return a model's weights and its decoder's, whose keys are marked, as one."""
    marked = {f"{DECODER_PREFIX}{key}": tensor for key, tensor in (decoder or {}).items()}
    return {**model, **marked}


def _state_dict(content: object, *, path: Path) -> dict[str, Tensor]:
    """Return the state dict inside a file's content, which must hold tensors and nothing else."""
    import torch

    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{path} holds {_described(content)}, not a state dict ({ACCEPTED})")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise WeightsError(f"{path} holds {_described(value)} under {key!r}, not a tensor; {ACCEPTED}")
        if value.layout != torch.strided or value.is_quantized:
            raise WeightsError(f"{path}: {key!r} is a sparse or quantised tensor; save it dense")
    return dict(content)


def _described(value: object) -> str:
    """Return a few words for something that is not what was hoped for."""
    return "nothing" if isinstance(value, dict) and not value else f"a {type(value).__name__}"


def _check_values(weights: Mapping[str, Tensor], *, path: Path) -> None:
    """Refuse NaN, infinity, variances below zero, and tensors that claim more elements than the file has."""
    import torch

    if not weights:
        raise WeightsError(f"{path} holds no tensors; download or copy it again")
    for key, tensor in weights.items():
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise WeightsError(
                f"{path} is refused: {key!r} claims shape {tuple(tensor.shape)} without the data for it"
            )
        if tensor.is_complex():
            raise WeightsError(f"{path}: {key!r} is complex; no model here has complex weights")
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        low, high = torch.aminmax(tensor)
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise WeightsError(
                f"{path}: {key!r} holds NaN or infinity: training went wrong or the file is damaged"
            )
        if key.endswith(_VARIANCE) and low < 0:
            raise WeightsError(
                f"{path}: {key!r} holds {float(low):g}, and a variance is 0 or more: the file is damaged"
            )

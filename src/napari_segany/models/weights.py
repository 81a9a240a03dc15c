"""Weights files: found, read safely, told apart, and loaded strictly or not at all.

A file is judged by its content, never by its suffix. Pickles go through `torch.load(weights_only=True)` only.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from napari_segany.core.errors import WeightsError

from .download import find_weights, local_weights, sha256_of, weights_dir
from .packed import FORMAT as PACKED_FORMAT
from .packed import pack, unpack, write_packed
from .registry import list_models

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "find_weights",
    "identify",
    "load_strictly",
    "local_weights",
    "pack",
    "read_metadata",
    "read_weights",
    "sha256_of",
    "unpack",
    "weights_dir",
    "write_packed",
]

_WRAPPERS = ("model", "state_dict")
_LISTED = 10
_ZIP = b"PK\x03\x04"
_ACCEPTED = "accepted are .safetensors, and .pt or .pth that hold a state dict"


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weights file by key, on the CPU, in the types they are stored in.

    Reads safetensors (packed ones come back as float32) and what `torch.save` writes: a state dict, or one
    inside {"model": ...} or {"state_dict": ...}. Runs no code from the file, and maps it rather than copies
    it.

    Raises
    ------
    WeightsError
        If there is no such file, or it is empty, truncated, hostile, or holds more than finite tensors.
    """
    path = Path(path)
    head = _head_of(path)
    weights = _read_safetensors(path) if _is_safetensors(path, head=head) else _read_pickle(path, head=head)
    _check_values(weights, path=path)
    return weights


def read_metadata(path: Path) -> dict[str, str]:
    """Return the text in a safetensors file's header (model, configuration, ...), nothing for other files."""
    path = Path(path)
    if not _is_safetensors(path, head=_head_of(path)):
        return {}
    with _opened(path) as stored:
        return dict(stored.metadata() or {})


def identify(weights: Mapping[str, Tensor]) -> str | None:
    """Return the name of the registry row whose layout a state dict has, or None."""
    shapes = {key: tuple(tensor.shape) for key, tensor in weights.items()}
    return next((spec.name for spec in list_models() if spec.layout.fits(shapes)), None)


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


def _head_of(path: Path) -> bytes:
    """Return the first bytes of a file that could be weights."""
    if path.is_dir():
        raise WeightsError(f"{path} is a folder; give the weights file in it ({_ACCEPTED})")
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
    return starts_so or (path.suffix == ".safetensors" and not head.startswith(_ZIP))


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


def _read_pickle(path: Path, *, head: bytes) -> dict[str, Tensor]:
    """Return the state dict in a file that `torch.save` wrote, without running anything in it."""
    import torch

    is_zip = head.startswith(_ZIP)
    if is_zip:
        _refuse_zip_bomb(path)
    elif head[:1] != b"\x80":
        raise WeightsError(f"{path} is no weights file ({_ACCEPTED}); it starts with {head[:8]!r}")
    try:
        with path.open("rb") as stream:  # not by name: torch would go by the suffix
            source = path if is_zip and path.suffix != ".safetensors" else stream
            content = torch.load(source, map_location="cpu", weights_only=True, mmap=source is path)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is refused: it holds more than tensors, or is damaged. Opening such a file can run any "
            f"program; if you trust where it came from, save its state dict again as .safetensors"
        ) from error
    except Exception as error:  # a damaged pickle can raise almost anything
        raise WeightsError(
            f"{path} is truncated or damaged ({type(error).__name__}: {error}); download it again"
        ) from error
    return _state_dict(content, path=path)


def _refuse_zip_bomb(path: Path) -> None:
    """Refuse an archive that would grow on reading: `torch.save` stores, it never compresses."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise WeightsError(f"{path} is truncated or damaged ({error}); download or copy it again") from error
    if size > path.stat().st_size:
        raise WeightsError(
            f"{path} is refused: it is compressed and would grow to {size} bytes; no weights file does so"
        )


def _state_dict(content: object, *, path: Path) -> dict[str, Tensor]:
    """Return the state dict inside a file's content, which must hold tensors and nothing else."""
    import torch

    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{path} holds {_described(content)}, not a state dict ({_ACCEPTED})")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise WeightsError(f"{path} holds {_described(value)} under {key!r}, not a tensor; {_ACCEPTED}")
        if value.layout != torch.strided or value.is_quantized:
            raise WeightsError(f"{path}: {key!r} is a sparse or quantised tensor; save it dense")
    return dict(content)


def _described(value: object) -> str:
    """Return a few words for something that is not what was hoped for."""
    return "nothing" if isinstance(value, dict) and not value else f"a {type(value).__name__}"


def _check_values(weights: Mapping[str, Tensor], *, path: Path) -> None:
    """Refuse NaN, infinity, and tensors that claim more elements than the file has."""
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

"""What `torch.save` wrote, read without running anything in it.

Pickles go through `torch.load(weights_only=True)`. Only the training files of torch_em (micro-sam's) need more:
they hold objects of the training's own beside the weights. Those files are read by an unpickler that knows tensors
and containers, and puts an inert object in the place of everything else, whose code is never even imported.
"""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_segany.core.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

ZIP = b"PK\x03\x04"
ACCEPTED = "accepted are .safetensors, and .pt or .pth that hold a state dict"
TRAINED = ("model_state", "decoder_state")
"""The parts of a training file that are weights."""

# What of the standard library a training's objects are made of; a file that names another part of it is hostile.
_HARMLESS = {
    "__main__",
    "_codecs",
    "builtins",
    "collections",
    "copyreg",
    "datetime",
    "functools",
    "pathlib",
    "random",
}
_HOSTILE_BUILTINS = {"__import__", "breakpoint", "compile", "eval", "exec", "getattr", "open", "setattr"}
_DTYPES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


def read_pickle(path: Path, *, head: bytes) -> object:
    """Return what is in a file that `torch.save` wrote, without running anything in it.

    Parameters
    ----------
    head
        Its first bytes.

    Raises
    ------
    WeightsError
        If the file is truncated, damaged, hostile or something else.
    """
    import torch

    is_zip = head.startswith(ZIP)
    if is_zip:
        _refuse_zip_bomb(path)
    elif head[:1] != b"\x80":
        raise WeightsError(f"{path} is no weights file ({ACCEPTED}); it starts with {head[:8]!r}")
    try:
        with path.open("rb") as stream:  # not by name: torch would go by the suffix
            source = path if is_zip and path.suffix != ".safetensors" else stream
            content: object = torch.load(source, map_location="cpu", weights_only=True, mmap=source is path)
    except pickle.UnpicklingError as error:
        if is_zip and (trained := _read_training_file(path)):
            return trained
        raise WeightsError(
            f"{path} is refused: it holds more than tensors, or is damaged. Opening such a file can run any "
            f"program; if you trust where it came from, save its state dict again as .safetensors"
        ) from error
    except Exception as error:  # a damaged pickle can raise almost anything
        raise WeightsError(
            f"{path} is truncated or damaged ({type(error).__name__}: {error}); download it again"
        ) from error
    return content


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


def _read_training_file(path: Path) -> dict[str, dict[str, Tensor]] | None:
    """Return the weights in a training file of torch_em, by part; None if it is no such file, or a hostile one."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            content = _Reader(io.BytesIO(archive.read(name))).load()
            if not isinstance(content, dict) or TRAINED[0] not in content:
                return None
            folder = name.removesuffix("data.pkl") + "data/"
            return {part: _tensors(content[part], archive, folder) for part in TRAINED if part in content}
    except Exception:  # a hostile or damaged pickle can raise almost anything; the caller refuses the file
        return None


def _tensors(state: dict[str, object], archive: zipfile.ZipFile, folder: str) -> dict[str, Tensor]:
    """Return the tensors of one part, in the shapes and types that the file gives them."""
    import torch

    tensors = {}
    for key, stored in state.items():
        if not isinstance(stored, _Stored):
            raise TypeError(key)
        content = bytearray(archive.read(folder + stored.file))
        flat = torch.frombuffer(content, dtype=getattr(torch, stored.dtype))
        tensors[key] = flat.as_strided(
            stored.shape, stored.stride, stored.offset
        )  # refuses what is out of bounds
    return tensors


@dataclass(frozen=True, slots=True)
class _Stored:
    """A tensor in the archive: in which file, from which element on, in which shape and type."""

    file: str
    dtype: str
    offset: int = 0
    shape: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()


class _Inert:
    """In the place of an object that is no weight: takes whatever a pickle does to it, and does nothing."""

    def __new__(cls, *_: object, **__: object) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __call__(self, *_: object, **__: object) -> _Inert:
        return self

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def append(self, *_: object) -> None:
        """Take a list's items."""

    extend = add = append


def _rebuilt(
    storage: _Stored, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> _Stored:
    return _Stored(storage.file, storage.dtype, offset, tuple(shape), tuple(stride))


def _parameter(tensor: _Stored, *_: object) -> _Stored:
    return tensor


class _Reader(pickle.Unpickler):
    """An unpickler that imports nothing: tensors and ordered dicts are known, all else is inert or refused."""

    def find_class(self, module: str, name: str) -> Any:  # Any: as the base class has it
        """Return what stands for a global of the pickle."""
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
            ("torch._utils", "_rebuild_parameter"): _parameter,
        }
        if (module, name) in known:
            return known[module, name]
        top = module.partition(".")[0]
        is_hostile = top in sys.stdlib_module_names or top in ("nt", "posix")
        if (is_hostile and top not in _HARMLESS) or (top == "builtins" and name in _HOSTILE_BUILTINS):
            raise pickle.UnpicklingError(f"{module}.{name}")
        return _Inert

    def persistent_load(self, pid: Any) -> _Stored:  # Any: as the base class has it
        """Return where in the archive a tensor's data is."""
        _kind, dtype, file, *_rest = pid
        return _Stored(str(file), dtype)

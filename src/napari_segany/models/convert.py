"""Downloaded weights to safetensors: mapped into memory at once, and no pickle at later starts.

Torch is imported when a file is converted, not before.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from napari_segany.core.errors import WeightsError

from .cache import converted_path, note_path, origin_for, write_note
from .spec import RemoteFile

if TYPE_CHECKING:
    from torch import Tensor

_logger = logging.getLogger(__name__)


def converted(remote: RemoteFile, original: Path) -> Path:
    """Return the safetensors file that a checked file was converted to; the original is gone then.

    Where it cannot be written (a full disk, a read-only folder), the original stays and is returned.

    Raises
    ------
    WeightsError
        If the file is hostile or damaged, or holds another model.
    """
    from .reading import read_weights

    weights = read_weights(original)
    _check_layout(weights, remote=remote, path=original)
    target, origin = converted_path(original), origin_for(remote, original)
    try:
        _write(weights, target, needed=original.stat().st_size, metadata={"origin_sha256": origin.sha256})
    except OSError as error:
        _logger.warning("%s is used as it is, not as safetensors: %s", original, error)
        write_note(original, origin)
        return original
    del weights  # or Windows keeps the original, which is mapped
    write_note(target, origin)
    for path in (original, note_path(original)):
        if path != target:
            _remove(path)
    return target


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _logger.warning("%s is of no more use and cannot be removed: %s", path, error)


def _check_layout(weights: Mapping[str, Tensor], *, remote: RemoteFile, path: Path) -> None:
    """Refuse a file of another model."""
    from .reading import identify, split_decoder

    model, _decoder = split_decoder(weights)
    if remote.layout.fits({key: tuple(tensor.shape) for key, tensor in model.items()}):
        return
    name = identify(weights)
    what = f"the layout of {name!r}" if name else f"{len(model)} tensors that fit no known model"
    raise WeightsError(
        f"{path}, from {remote.url}, is not the model it should be: it has {what}; load it by its path, or "
        "remove it and try again"
    )


def _write(weights: Mapping[str, Tensor], target: Path, *, needed: int, metadata: dict[str, str]) -> None:
    """Write a safetensors file, all or nothing; OSError if it cannot be."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise OSError(f"{needed} bytes are needed for {target} and {free} are free")
    part = target.with_name(f"{target.name}.part")
    try:
        save_file(_unshared(weights), part, metadata=metadata)
        with part.open("r+b") as stream:
            os.fsync(stream.fileno())
        part.replace(target)
    except SafetensorError as error:  # what it makes of a full disk
        raise OSError(str(error)) from error
    finally:
        part.unlink(missing_ok=True)


def _unshared(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights as safetensors takes them: contiguous, and no two on the same memory."""
    seen: set[int] = set()
    own = {}
    for key, tensor in weights.items():
        memory = tensor.untyped_storage()
        is_own = memory.nbytes() == tensor.numel() * tensor.element_size() and memory.data_ptr() not in seen
        seen.add(memory.data_ptr())
        own[key] = tensor.contiguous() if is_own else tensor.clone().contiguous()
    return own

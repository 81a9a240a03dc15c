"""How a label store lies on disk: its groups and arrays, how they are made, found, and fail."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from pydantic import ValidationError
from yaozarrs import v05
from yaozarrs.write.v05 import prepare_image
from zarr.codecs import BytesCodec, ZstdCodec

from napari_segany.core.axes import Calibration
from napari_segany.core.errors import FileFormatError, SegAnyError, StoreError

from .ledger import WriterLock, now
from .ngff import multiscale_of, read_attributes, write_attributes

RECORD = "segany"
"""The folder beside the arrays that holds ledger and lock, and the key of the provenance attributes."""

CHUNK = 512
"""Side of the unit of viewing, in pixels."""

_SHARD = 8192  # longest side of the unit of writing, which is a whole plane where that fits
_SCHEMA = 1


def is_store(group: Path) -> bool:
    """Return whether a folder is a label store that this package made."""
    return (group / RECORD / "ledger.jsonl").is_file()


def is_image(root: Path) -> bool:
    """Return whether a folder is an OME-Zarr 0.5 image, which may carry labels.

    Raises
    ------
    StoreError
        If it is an OME-Zarr 0.4 image: labels of version 0.5 do not belong in there.
    """
    if (root / ".zattrs").exists() or (root / ".zgroup").exists():
        raise StoreError(
            f"{root} is OME-Zarr 0.4 (zarr v2); labels are written as 0.5: put them in a new folder"
        )
    try:
        ome = read_attributes(root).get("ome", {})
    except FileFormatError:
        return False
    return "multiscales" in ome and "image-label" not in ome


def check_free(group: Path, *, overwrite: bool) -> None:
    """Raise StoreError unless a new store may be made there."""
    if not os.path.lexists(group) or (group.is_dir() and not any(group.iterdir())):
        return
    if not is_store(group):
        raise StoreError(
            f"{group} exists and is not a label store of this package; it is never replaced: choose another"
        )
    if not overwrite:
        raise StoreError(
            f"{group} exists; open it with LabelStore.open, or pass overwrite=True to replace it"
        )
    WriterLock(group / RECORD / "writer.lock").release()  # an error if somebody is writing to it


def find_group(path: Path, name: str | None) -> Path:
    """Return the folder of a label store: `path` itself, or one of the labels of the image at `path`."""
    if not path.exists():
        raise StoreError(f"there is no {path}")
    if is_store(path):
        return path
    labels = path / "labels"
    found = sorted(group.name for group in labels.iterdir() if is_store(group)) if labels.is_dir() else []
    if name is None and len(found) == 1:
        return labels / found[0]
    if name in found:
        return labels / str(name)
    if found:
        raise StoreError(f"{labels} holds the stores {found}; pass name=... with one of them, not {name!r}")
    raise StoreError(
        f"{path} was not made by this package: it has no {RECORD}/ledger.jsonl; "
        "read it with read_labels(...) and write into a new store"
    )


def make_store(
    group: Path,
    *,
    shape: tuple[int, ...],
    calibration: Calibration,
    name: str,
    source: Mapping[str, object] | None,
    parent_image: str | None,
) -> None:
    """Put an empty store into place, complete or not at all; an older one there is replaced.

    Parameters
    ----------
    group
        The folder to make.
    shape, calibration, name, source
        As in `LabelStore.create`.
    parent_image
        Relative path from the group to the image that it belongs to, None when it stands alone.
    """
    group.parent.mkdir(parents=True, exist_ok=True)
    draft = group.with_name(f".{group.name}.{os.getpid()}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        label = {"source": {"image": parent_image}} if parent_image else {}
        multiscale = multiscale_of(calibration, name=name)
        image = v05.LabelImage.model_validate({"multiscales": [multiscale], "image-label": label})
        prepare_image(draft, image, (shape, np.uint32), chunks=None, writer=create_array)
        (draft / RECORD).mkdir()
        write_attributes(draft / RECORD, {})
        (draft / RECORD / "ledger.jsonl").touch()
        write_attributes(draft, read_attributes(draft) | {RECORD: _provenance(source)})
        _swap(draft, group)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _provenance(source: Mapping[str, object] | None) -> dict[str, object]:
    """Return what is written down once, when a store is made."""
    versions = {"numpy": np.__version__, "zarr": zarr.__version__, "napari-segany": package_version()}
    return {"schema": _SCHEMA, "created": now(), "versions": versions, "source": dict(source or {})}


def package_version() -> str:
    """Return the version of this package, "unknown" when it runs from a tree that is not installed."""
    try:
        return metadata.version("napari-segany")
    except metadata.PackageNotFoundError:
        return "unknown"


def _swap(draft: Path, group: Path) -> None:
    """Rename a finished draft into place."""
    if group.is_dir() and not any(group.iterdir()):
        group.rmdir()
    if not group.exists():
        draft.rename(group)
        return
    old = group.with_name(f".{group.name}.{os.getpid()}.old.partial")
    group.rename(old)
    draft.rename(group)
    shutil.rmtree(old, ignore_errors=True)


def list_label(labels: Path, name: str) -> None:
    """Add a name to the list that the labels group of an image keeps."""
    attributes: dict[str, Any] = read_attributes(labels) if (labels / "zarr.json").exists() else {}
    listed = list(attributes.get("ome", {}).get("labels", []))
    group = v05.LabelsGroup(labels=listed if name in listed else [*listed, name])
    write_attributes(labels, attributes | {"ome": group.model_dump(mode="json", exclude_none=True)})


def create_array(
    path: Path,
    shape: tuple[int, ...],
    dtype: Any,
    chunks: tuple[int, ...],
    *,
    shards: tuple[int, ...] | None,
    overwrite: bool,
    compression: str,
    dimension_names: list[str] | None,
) -> Any:  # a zarr.Array, which has no useful static type; the signature is what yaozarrs calls
    """Return an empty array laid out for live labels: one shard a plane, fast zstd, background not stored.

    `chunks`, `shards` and `compression` are what the caller would take; here they follow from the shape.
    """
    inner = tuple(min(CHUNK, side) for side in shape[-2:])
    outer = (
        min(-(-side // part) * part, _SHARD // part * part)
        for side, part in zip(shape[-2:], inner, strict=True)
    )
    ones = (1,) * (len(shape) - 2)
    return zarr.create_array(
        str(path),
        shape=shape,
        dtype=dtype,
        chunks=ones + inner,
        shards=ones + tuple(outer),
        serializer=BytesCodec(endian="little"),
        compressors=[ZstdCodec(level=1)],
        fill_value=0,
        zarr_format=3,
        dimension_names=dimension_names,
        overwrite=overwrite,
    )


def label_image(group: Path) -> v05.LabelImage:
    """Return the checked metadata of a label image; StoreError if they are damaged."""
    try:
        return v05.LabelImage.model_validate(read_attributes(group).get("ome"))
    except (FileFormatError, ValidationError, TypeError) as error:
        raise StoreError(
            f"the metadata of {group} are damaged or not of labels; restore zarr.json from a copy ({error})"
        ) from error


def open_level0(group: Path, *, mode: Literal["r", "r+"]) -> Any:  # Any: a zarr.Array
    """Return the full-resolution array; StoreError if it is missing, damaged or not labels."""
    path = group / "0"
    try:
        array = zarr.open_array(str(path), mode=mode, zarr_format=3)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"cannot open the labels {path}: {error}; restore its zarr.json from a copy"
        ) from error
    if array.dtype != np.uint32 or array.ndim < 2 or array.shards is None:
        raise StoreError(f"{path} is {array.dtype} of shape {array.shape}, not sharded uint32 labels")
    return array


def signatures_of(array_dir: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield every shard below an array's folder, with its time of writing (ns) and its size in bytes."""
    pending = ["c"] if (array_dir / "c").is_dir() else []
    while pending:
        key = pending.pop()
        with os.scandir(array_dir / key) as entries:  # four times as fast as Path.rglob on a thousand planes
            for entry in entries:
                if entry.is_dir():
                    pending.append(f"{key}/{entry.name}")
                elif not entry.name.endswith(".partial"):
                    stat = entry.stat()
                    yield f"{key}/{entry.name}", (stat.st_mtime_ns, stat.st_size)


def add_level(path: Path, finer: Any) -> Any:  # Any: zarr.Array
    """Write and return every second pixel of an array, shard by shard."""
    shape = (*finer.shape[:-2], *(-(-side // 2) for side in finer.shape[-2:]))
    coarse = create_array(
        path,
        shape,
        finer.dtype,
        finer.chunks,
        shards=None,
        overwrite=True,
        compression="zstd",
        dimension_names=list(finer.metadata.dimension_names or []) or None,
    )
    steps = [range(0, side, shard) for side, shard in zip(shape, coarse.shards, strict=True)]
    for place in product(*steps):
        stops = [min(i + n, side) for i, n, side in zip(place, coarse.shards, shape, strict=True)]
        target = tuple(slice(i, stop) for i, stop in zip(place, stops, strict=True))
        source = target[:-2] + tuple(slice(2 * part.start, 2 * part.stop, 2) for part in target[-2:])
        coarse[target] = finer[source]
    return coarse


def sync(file: Path, *, top: Path) -> None:
    """Bring a file, and the folders between it and `top`, to the disk; a file that is gone is fine."""
    folders = [folder for folder in file.parents if folder == top or top in folder.parents]
    for path in [file, *(folders if os.name == "posix" else [])]:
        try:
            handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def explain(error: OSError, what: str) -> StoreError:
    """Return an error of the file system in words that say what to do."""
    if isinstance(error, SegAnyError):
        return StoreError(f"{what}: {error}")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(f"{what}: the disk is full; free some space and repeat the last step")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreError(f"{what}: no permission to write ({error}); choose a folder that you may write to")
    return StoreError(f"{what}: {error}")


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Raise errors of the file system as `explain` does; those that are explained already pass."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise explain(error, what) from error

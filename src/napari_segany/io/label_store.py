"""The OME-Zarr label image that work is streamed into: durable, resumable, with provenance."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from napari_segany.core.axes import Calibration
from napari_segany.core.errors import StoreError
from napari_segany.core.masks import LabelPatch, PlaneBox, check_place
from napari_segany.core.types import Labels

from .label_layout import (
    CHUNK,
    RECORD,
    add_level,
    check_free,
    explain,
    explained,
    find_group,
    is_image,
    label_image,
    list_label,
    make_store,
    open_level0,
    signatures_of,
    sync,
)
from .ledger import Commit, Ledger, WriterLock, now
from .ngff import calibration_of, multiscale_of, read_attributes, write_attributes

_TRIES = 5
_FIRST_WAIT = 0.02  # seconds; on Windows a reader or a virus scanner may hold a file for a moment


class LabelStore:
    """A label image on disk, uint32, one shard a plane; a `LabelSink` whose commits survive a killed process.

    Make one with `create` or `open`. One process at a time may write; any number may read.
    """

    def __init__(self, group: Path, *, read_only: bool) -> None:
        self.path = group
        self._read_only = read_only
        self._ledger = Ledger(group / RECORD / "ledger.jsonl")
        self._lock = None if read_only else WriterLock(group / RECORD / "writer.lock")
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    def _load(self) -> None:
        """Read metadata and ledger, and sweep what a killed process left."""
        image = label_image(self.path)
        self.calibration = calibration_of(image.multiscales[0])
        self.array = open_level0(self.path, mode="r" if self._read_only else "r+")
        self.calibration.fits(self.array.shape)
        self._levels = len(image.multiscales[0].datasets)
        self._mutex = threading.RLock()
        if not self._read_only:
            self._ledger.repair()
            for leftover in self.path.rglob("*.partial"):
                leftover.unlink(missing_ok=True)
        commits = self._ledger.commits()
        self._count = len(commits)
        self._highest = max((commit.highest for commit in commits), default=0)
        self._seen = {key: (stamp, size) for commit in commits for key, stamp, size in commit.shards}

    # -- making and opening

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        shape: tuple[int, ...],
        calibration: Calibration,
        name: str = "labels",
        source: Mapping[str, object] | None = None,
        overwrite: bool = False,
    ) -> LabelStore:
        """Return a new, empty store.

        Parameters
        ----------
        path
            A new folder such as "cells.ome.zarr", or an OME-Zarr 0.5 image, where it becomes `labels/<name>`.
        shape
            (..., H, W), one side for each axis of the calibration.
        calibration
            Axes, scale, translation and units, as the image has them.
        name
            Of the label image.
        source
            What the labels were drawn on (path, shape, channel ...), kept as provenance.
        overwrite
            Replace a store of this kind; anything else that exists is never touched.

        Raises
        ------
        StoreError
            If something is there already, or the folder cannot be written.
        """
        calibration.fits(shape)
        if min(shape) < 1:
            raise StoreError(f"cannot store labels of shape {shape}: every side needs at least one pixel")
        root = Path(path)
        inside = is_image(root)
        group = root / "labels" / name if inside else root
        check_free(group, overwrite=overwrite)
        try:
            make_store(
                group,
                shape=tuple(shape),
                calibration=calibration,
                name=name,
                source=source,
                parent_image="../../" if inside else None,
            )
            if inside:
                list_label(group.parent, name)
        except OSError as error:
            raise explain(error, f"cannot create the label store {group}") from error
        return cls(group, read_only=False)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, name: str | None = None, read_only: bool = False
    ) -> LabelStore:
        """Return the store in a folder.

        Parameters
        ----------
        path
            What was given to `create`.
        name
            Which of an image's label groups; may be left out when there is one.
        read_only
            Look only: works on read-only folders and beside a writer.

        Raises
        ------
        StoreError
            If there is no such store, its metadata are damaged, or another process writes to it.
        """
        return cls(find_group(Path(path), name), read_only=read_only)

    def close(self) -> None:
        """Let other processes write; reading still works."""
        if self._lock is not None:
            self._lock.release()
        self._lock = None

    def __enter__(self) -> LabelStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- what is in it

    @property
    def shape(self) -> tuple[int, ...]:
        """Leading axes, then rows and columns."""
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[np.uint32]:
        """Always uint32."""
        return np.dtype(np.uint32)

    @property
    def is_writable(self) -> bool:
        """Whether commits are taken: opened for writing and not closed."""
        return self._lock is not None

    @property
    def provenance(self) -> dict[str, Any]:
        """What was written down when the store was made: schema, time, source, versions."""
        return dict(read_attributes(self.path).get(RECORD, {}))

    def records(self) -> list[Commit]:
        """Return every commit, oldest first."""
        return self._ledger.commits()

    def read(self, index: tuple[int, ...], box: PlaneBox) -> Labels:
        """Return a copy of the (h, w) labels of one rectangle of one plane."""
        check_place(self.shape, index, box=box)
        labels: Labels = np.asarray(self.array[index + box], dtype=np.uint32)
        return labels

    def max_label(self) -> int:
        """Return the highest label that is there or was ever committed, 0 if none.

        Only shards that were changed past `write` (painted by hand) are read.
        """
        with self._mutex:
            for key, signature in signatures_of(self._array_dir):
                self._look(key, signature)
            return self._highest

    def next_label(self) -> int:
        """Return the lowest id above every id that was ever used."""
        return self.max_label() + 1

    # -- committing

    def write(self, patch: LabelPatch, *, note: Mapping[str, object] | None = None) -> None:
        """Commit a patch; it survives a killed process and a power cut when this returns.

        Parameters
        ----------
        patch
            Only the shards that its rectangle meets are rewritten, each as a whole.
        note
            How it came about, as JSON: model, weights sha256, prompts, intensity window, versions.

        Raises
        ------
        StoreError
            If it could not be committed; everything committed before is kept.
        """
        check_place(self.shape, patch.index, box=patch.slices)
        with self._mutex:
            self._check_writable()
            before, after = patch.before, patch.after
            keys = list(self._shard_keys(patch))
            with explained(self._line("commit")):
                self._drop_pyramid()
                for key in keys:
                    self._look(key, self._signature(key))
                self._put(patch, after)
                self._highest = max(self._highest, int(after.max()))
                commit = self._describe(patch, np.unique(after[after != before]), keys=keys, note=note)
                self._append(commit, patch=patch, before=before)
            self._count += 1
            self._seen |= {key: (stamp, size) for key, stamp, size in commit.shards}

    def remark(self, note: Mapping[str, object], *, index: tuple[int, ...] = ()) -> None:
        """Note something about a plane, or with () about all work, durably and without touching a pixel."""
        with self._mutex:
            self._check_writable()
            with explained(self._line("remark")):
                self._ledger.append(
                    Commit.remark(self._count + 1, now(), index, highest=self._highest, note=note)
                )
            self._count += 1

    def _line(self, what: str) -> str:
        """Return what failed, should the next line of the ledger fail."""
        return f"{what} {self._count + 1} to {self.path} failed; the {self._count} before it are kept"

    def _check_writable(self) -> None:
        """Raise StoreError unless commits can be taken."""
        if self._lock is None:
            how = "opened with read_only=True" if self._read_only else "closed"
            raise StoreError(f"{self.path} was {how}; LabelStore.open(...) it for writing")
        if not self._ledger.file.exists():
            raise StoreError(f"{self.path} was moved or deleted while it was open; open it where it is now")

    def _put(self, patch: LabelPatch, labels: Labels) -> None:
        """Write labels into a patch's rectangle and bring the shards to the disk."""
        wait = _FIRST_WAIT
        for attempt in range(1, _TRIES + 1):
            try:
                self.array[patch.index + patch.slices] = labels
                break
            except PermissionError:
                if attempt == _TRIES:
                    raise
                time.sleep(wait)
                wait *= 2
        for key in self._shard_keys(patch):
            sync(self._array_dir / key, top=self._array_dir)

    def _append(self, commit: Commit, *, patch: LabelPatch, before: Labels) -> None:
        """Write the commit into the ledger, or put the plane back as it was."""
        try:
            self._ledger.append(commit)
        except OSError:
            try:
                self._put(patch, before)
            except OSError as error:
                raise explain(
                    error, f"{self.path} kept the pixels of a commit but could not note it in its ledger"
                ) from error
            raise

    def _describe(
        self,
        patch: LabelPatch,
        ids: Labels,
        *,
        keys: list[str],
        note: Mapping[str, object] | None,
    ) -> Commit:
        """Return the ledger line of a patch that is in the array."""
        rows, cols = patch.slices
        signatures = ((key, self._signature(key)) for key in keys)
        return Commit(
            number=self._count + 1,
            time=now(),
            index=patch.index,
            box=(rows.start, cols.start, rows.stop, cols.stop),
            labels=tuple(int(i) for i in ids if i),
            highest=self._highest,
            shards=tuple((key, *signature) for key, signature in signatures if signature is not None),
            note=dict(note or {}),
        )

    # -- shards

    @property
    def _array_dir(self) -> Path:
        return self.path / "0"

    def _shard_keys(self, patch: LabelPatch) -> Iterator[str]:
        """Yield the file names of the shards that a patch meets, below the array's folder."""
        sides = self.array.shards[-2:]
        spans = (
            range(part.start // side, (part.stop - 1) // side + 1)
            for part, side in zip(patch.slices, sides, strict=True)
        )
        for place in product(*spans):
            yield "/".join(("c", *map(str, patch.index + place)))

    def _signature(self, key: str) -> tuple[int, int] | None:
        """Return when a shard was written (ns) and its size; None when it is all background."""
        try:
            stat = (self._array_dir / key).stat()
        except FileNotFoundError:
            return None
        return stat.st_mtime_ns, stat.st_size

    def _look(self, key: str, signature: tuple[int, int] | None) -> None:
        """Take the ids of a shard into account if somebody else wrote it."""
        if signature is None or self._seen.get(key) == signature:
            return
        place = [int(part) for part in key.split("/")[1:]]
        region = tuple(slice(i * n, (i + 1) * n) for i, n in zip(place, self.array.shards, strict=True))
        self._highest = max(self._highest, int(np.max(self.array[region])))
        self._seen[key] = signature

    # -- pyramid

    def build_pyramid(self, *, levels: int | None = None) -> None:
        """Add coarser levels for viewers that want them: every second pixel, which keeps ids as they are.

        The next commit drops them again, because they would no longer be true.

        Parameters
        ----------
        levels
            Levels in all; None goes on until a plane fits one chunk.
        """
        with self._mutex:
            self._check_writable()
            longest = max(self.shape[-2:])
            wanted = levels or max(1, int(np.ceil(np.log2(longest / CHUNK))) + 1)
            try:
                finer = self.array
                for level in range(1, wanted):
                    finer = add_level(self.path / str(level), finer)
                self._declare_levels(wanted)
            except OSError as error:
                raise explain(error, f"cannot build the pyramid of {self.path}; level 0 is kept") from error

    def _drop_pyramid(self) -> None:
        """Take levels that are about to be outdated out of the store."""
        if self._levels > 1:
            outdated = range(1, self._levels)
            self._declare_levels(1)
            for level in outdated:
                shutil.rmtree(self.path / str(level), ignore_errors=True)

    def _declare_levels(self, levels: int) -> None:
        """Say in the metadata how many levels there are."""
        attributes = read_attributes(self.path)
        image = label_image(self.path)
        name = image.multiscales[0].name or self.path.name
        image.multiscales = [multiscale_of(self.calibration, name=name, levels=levels)]
        described = image.model_dump(mode="json", exclude_none=True)
        attributes["ome"] |= {"multiscales": described["multiscales"]}  # whatever else is known stays
        write_attributes(self.path, attributes)
        self._levels = levels

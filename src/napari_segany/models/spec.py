"""What is known about one model that loads by name: its files, licence, numbers and layout. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

NOT_STATED = "NOASSERTION"
"""SPDX's word for a licence that the authors do not state."""

_HEX = {
    "sha256": re.compile(r"[0-9a-f]{64}"),
    "xxh128": re.compile(r"[0-9a-f]{32}"),
    "md5": re.compile(r"[0-9a-f]{32}"),
}


@dataclass(frozen=True, slots=True)
class Layout:
    """What tells a row's state dict from every other row's: how many keys, and a few of them.

    Attributes
    ----------
    n_keys
        Entries of the state dict; None if the row's key count is not fixed.
    shapes
        Keys with the shape they have; an empty shape asks only that the key is there.
    absent
        Keys that must not be there.
    """

    n_keys: int | None
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    absent: tuple[str, ...] = ()

    def fits(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Return whether a state dict with these keys and shapes is of this layout.

        Fine-tuning changes no shape: micro-sam's files have the layouts of SAM and MobileSAM, so a file of
        theirs without its name is found to be "sam_vit_b", "sam_vit_l", "sam_vit_h" or "mobile_sam".
        """
        if self.n_keys is not None and len(shapes) != self.n_keys:
            return False
        if any(key in shapes for key in self.absent):
            return False
        return all(key in shapes and (not shape or shapes[key] == shape) for key, shape in self.shapes)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file to download.

    Attributes
    ----------
    file
        Its name in the cache.
    url
        Where it is.
    layout
        What the state dict in it looks like.
    sha256, xxh128, md5
        Hashes, as far as they are known.
    size_bytes
        Where it is a fact and not an estimate.
    """

    file: str
    url: str
    layout: Layout
    sha256: str | None = None
    xxh128: str | None = None
    md5: str | None = None
    size_bytes: int | None = None

    def __post_init__(self) -> None:
        for kind, pattern in _HEX.items():
            digest = getattr(self, kind)
            if digest is not None and not pattern.fullmatch(digest):
                raise ValueError(f"{self.file}: {kind} must be lower-case hex digits, got {digest!r}")

    @property
    def known_hash(self) -> tuple[str, str] | None:
        """(algorithm, hex digest) to check the file by, the strongest first; None if nobody published one."""
        known = ((kind, getattr(self, kind)) for kind in _HEX)
        return next(((kind, digest) for kind, digest in known if digest is not None), None)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model that loads by name.

    Attributes
    ----------
    name, title
        What `load_model` takes, and what people read.
    family, version
        Which code builds it ("sam", "sam2") and which of its flag sets ("1", "1-hq", "2.0", "2.1", "nano").
    trunk
        Row of the image encoder's table.
    file
        File name, in the package (bundled) or in the cache.
    licence
        SPDX identifier of the weights' licence; NOASSERTION where the authors do not state it.
    image_size
        Side of the square that the encoder sees, in pixels.
    note
        Where the weights come from, in one sentence.
    layout
        What its state dict looks like.
    url
        Where the file is downloaded from; None if it is bundled.
    sha256, xxh128, md5
        Hashes of the downloaded file, as far as they are known.
    size_bytes
        Of the downloaded file, where it is a fact and not an estimate.
    n_parameters
        Of the whole model, memory included; None where retraining may change it.
    has_fine
        Whether it has HQ parts, which draw finer boundaries.
    licence_note
        What restricts use or is not stated, in one sentence; empty if nothing does.
    decoder
        The second file of a model that also finds every object by itself (micro-sam).
    has_seeds
        Whether it looks for objects by itself without a second file (semantic-nano).
    """

    name: str
    title: str
    family: str
    version: str
    trunk: str
    file: str
    licence: str
    image_size: int
    note: str
    layout: Layout
    url: str | None = None
    sha256: str | None = None
    xxh128: str | None = None
    md5: str | None = None
    size_bytes: int | None = None
    n_parameters: int | None = None
    has_fine: bool = False
    licence_note: str = ""
    decoder: RemoteFile | None = None
    has_seeds: bool = False

    def __post_init__(self) -> None:
        if self.licence == NOT_STATED and not self.licence_note:
            raise ValueError(f"{self.name}: a licence that is not stated needs a licence_note that says so")
        self.remote  # noqa: B018  (checks the hashes)

    @property
    def finds_instances(self) -> bool:
        """Whether it finds objects without prompts."""
        return self.decoder is not None or self.has_seeds

    @property
    def is_bundled(self) -> bool:
        """Whether the weights ship with the package."""
        return self.url is None

    @property
    def remote(self) -> RemoteFile | None:
        """The file to download; None if it is bundled."""
        if self.url is None:
            return None
        return RemoteFile(
            self.file,
            self.url,
            self.layout,
            sha256=self.sha256,
            xxh128=self.xxh128,
            md5=self.md5,
            size_bytes=self.size_bytes,
        )

    @property
    def known_hash(self) -> tuple[str, str] | None:
        """(algorithm, hex digest) to check the file by; None if it is bundled, or nobody published one."""
        return self.remote.known_hash if self.remote is not None else None

"""The models that load by name: one row each, with licence, size, hashes and layout. Imports no torch.

SAM 2: N. Ravi et al., "SAM 2: Segment Anything in Images and Videos", 2024 (arXiv:2408.00714). Addresses
and the licence are those of the authors' repository (facebookresearch/sam2). The authors publish no hashes:
sha256 and md5 are those that third parties publish for the same files. Parameters and keys are counted from
the authors' modules.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from napari_segany.core.errors import UnknownModelError

_SAM2_URL = "https://dl.fbaipublicfiles.com/segment_anything_2"
_SAM2_PATCHES = "image_encoder.trunk.patch_embed.proj.weight"
_HEX = {"sha256": re.compile(r"[0-9a-f]{64}"), "md5": re.compile(r"[0-9a-f]{32}")}


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

    def fits(self, shapes: dict[str, tuple[int, ...]]) -> bool:
        """Return whether a state dict with these keys and shapes is of this layout."""
        if self.n_keys is not None and len(shapes) != self.n_keys:
            return False
        if any(key in shapes for key in self.absent):
            return False
        return all(key in shapes and (not shape or shapes[key] == shape) for key, shape in self.shapes)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model that loads by name.

    Attributes
    ----------
    name, title
        What `load_model` takes, and what people read.
    family, version
        Which code builds it ("sam2") and which of its flag sets ("2.0", "2.1", "nano").
    trunk
        Row of the image encoder's table.
    file
        File name, in the package (bundled) or in the cache.
    licence
        SPDX identifier of the weights' licence.
    image_size
        Side of the square that the encoder sees, in pixels.
    note
        Where the weights come from, in one sentence.
    url
        Where the file is downloaded from; None if it is bundled.
    sha256, md5
        Hashes of the downloaded file, as far as they are known.
    size_bytes
        Of the downloaded file, where it is a fact and not an estimate.
    n_parameters
        Of the whole model, memory included; None where retraining may change it.
    layout
        What its state dict looks like.
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
    md5: str | None = None
    size_bytes: int | None = None
    n_parameters: int | None = None

    def __post_init__(self) -> None:
        for kind, pattern in _HEX.items():
            digest = getattr(self, kind)
            if digest is not None and not pattern.fullmatch(digest):
                raise ValueError(f"{self.name}: {kind} must be lower-case hex digits, got {digest!r}")
        if self.url is not None and self.sha256 is None and self.md5 is None:
            raise ValueError(f"{self.name}: a row with an address needs a sha256 or an md5")

    @property
    def is_bundled(self) -> bool:
        """Whether the weights ship with the package."""
        return self.url is None

    @property
    def known_hash(self) -> tuple[str, str] | None:
        """(algorithm, hex digest) to check the file by, the stronger one first; None if it is bundled."""
        if self.sha256 is not None:
            return "sha256", self.sha256
        return ("md5", self.md5) if self.md5 is not None else None


@dataclass(frozen=True, slots=True)
class _Sam2Row:
    """The numbers in which SAM 2's eight rows differ."""

    version: str
    size: str
    width: int  # channels after the patch embedding
    n_keys: int
    n_parameters: int
    md5: str
    sha256: str | None = None
    size_bytes: int | None = None

    def spec(self) -> ModelSpec:
        """Return the row in full."""
        stem = "sam2_hiera" if self.version == "2.0" else "sam2.1_hiera"
        folder, month = ("072824", "July") if self.version == "2.0" else ("092824", "September")
        has_spatial = self.version == "2.1"
        patches = (_SAM2_PATCHES, (self.width, 3, 7, 7))
        mark = "no_obj_embed_spatial"
        return ModelSpec(
            name=f"{stem}_{self.size}",
            title=f"SAM {'2' if self.version == '2.0' else '2.1'} {self.size.replace('_plus', '+')}",
            family="sam2",
            version=self.version,
            trunk=f"hiera_{self.size}",
            file=f"{stem}_{self.size}.pt",
            licence="Apache-2.0",
            image_size=1024,
            note=f"By the authors of SAM 2 (Meta AI), released in {month} 2024; trained on SA-V and SA-1B.",
            layout=Layout(
                self.n_keys,
                (patches, (mark, (1, 64))) if has_spatial else (patches,),
                absent=() if has_spatial else (mark,),
            ),
            url=f"{_SAM2_URL}/{folder}/{stem}_{self.size}.pt",
            sha256=self.sha256,
            md5=self.md5,
            size_bytes=self.size_bytes,
            n_parameters=self.n_parameters,
        )


_NANO = ModelSpec(
    name="sam2-nano",
    title="SAM 2 nano (bundled)",
    family="sam2",
    version="nano",
    trunk="nano",
    file="sam2-nano.safetensors",
    licence="BSD-3-Clause",
    image_size=512,
    note="Trained by `segany train` on procedural microscopy scenes and public-domain nuclei; see its card.",
    layout=Layout(None, (("image_encoder.trunk.stem.0.weight", ()),)),
)

# fmt: off
_SAM2_ROWS = (
    _Sam2Row("2.0", "tiny", 96, 468, 38_945_986, "99eacccce4ada0b35153d4fd7af05297",
             "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125"),
    _Sam2Row("2.0", "small", 96, 516, 46_043_842, "7f320dbeb497330a2472da5a16c7324d"),
    _Sam2Row("2.0", "base_plus", 112, 612, 80_833_666, "09dc5a3d7719f64aaea1d37341ef26f2"),
    _Sam2Row("2.0", "large", 144, 900, 224_430_130, "08083462423be3260cd6a5eef94dc01c"),
    _Sam2Row("2.1", "tiny", 96, 471, 38_962_498, "6aa6761c9da74fbaa74b4c790a0a2007",
             "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69", 156_008_466),
    _Sam2Row("2.1", "small", 96, 519, 46_060_354, "51713b3d1994696d27f35f9c6de6f5ef",
             "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38"),
    _Sam2Row("2.1", "base_plus", 112, 615, 80_850_178, "ec7bd7d23d280d5e3cfa45984c02eda5",
             "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5"),
    _Sam2Row("2.1", "large", 144, 903, 224_446_642, "2b30654b6112c42a115563c638d238d9",
             "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318"),
)
# fmt: on

_SPECS: dict[str, ModelSpec] = {spec.name: spec for spec in (_NANO, *(row.spec() for row in _SAM2_ROWS))}


def list_models(pattern: str = "*") -> list[ModelSpec]:
    """Return the rows whose name matches a shell pattern ("sam2.1_*"), the bundled ones first."""
    return [spec for name, spec in _SPECS.items() if fnmatchcase(name, pattern)]


def spec_of(name: str) -> ModelSpec:
    """Return the row of a model name.

    Raises
    ------
    UnknownModelError
        If no row has that name.
    """
    if name in _SPECS:
        return _SPECS[name]
    close = get_close_matches(name, _SPECS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"known names: {', '.join(_SPECS)}."
    raise UnknownModelError(
        f"no model is called {name!r}; {hint} The path of a weights file (.safetensors, .pt) works too."
    )

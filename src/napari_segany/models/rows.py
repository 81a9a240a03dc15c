"""The released models, one row each: licence, address, hashes, size and layout. Imports no torch.

SAM: A. Kirillov et al., "Segment Anything", 2023 (arXiv:2304.02643). MobileSAM: C. Zhang et al., "Faster Segment
Anything", 2023 (arXiv:2306.14289). HQ-SAM: L. Ke et al., "Segment Anything in High Quality", 2023
(arXiv:2306.01567). SAM 2: N. Ravi et al., "SAM 2: Segment Anything in Images and Videos", 2024
(arXiv:2408.00714). EdgeTAM: C. Zhou et al., "EdgeTAM: On-Device Track Anything Model", 2025
(arXiv:2501.07256). micro-sam: A. Archit et al., "Segment Anything for Microscopy", 2025
(doi:10.1038/s41592-024-02580-4). Semantic-SAM's rows have a module of their own.

Addresses and licences are those of the authors' repositories. Only micro-sam publishes hashes (xxh128), and SAM
the first six digits of the MD5, in its file names; the other sha256 and md5 are those that third parties publish
for the same files. Nobody published one for HQ-SAM 2 and EdgeTAM. Parameters and keys are counted from the
authors' modules.
"""

from __future__ import annotations

from dataclasses import dataclass

from .semantic_rows import SEMANTIC_NANO, SEMANTIC_ROWS
from .spec import NOT_STATED, Layout, ModelSpec, RemoteFile

_SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything"
_SAM2_URL = "https://dl.fbaipublicfiles.com/segment_anything_2"
_HQ_URL = "https://huggingface.co/lkeab/hq-sam/resolve/main"
_BIOIMAGE = "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io"
_OWNCLOUD = "https://owncloud.gwdg.de/index.php/s"

_SAM2_PATCHES = "image_encoder.trunk.patch_embed.proj.weight"
_HQ_TOKEN = "mask_decoder.hf_token.weight"
_HQ2_TOKEN = "sam_mask_decoder.hf_token.weight"
_LATENTS = "spatial_perceiver.latents"
_NANO_TOKEN = "sam_mask_decoder.fine.last.weight"
_TINY_PATCHES = ("image_encoder.patch_embed.seq.0.c.weight", (32, 3, 3, 3))
_VIT_WIDTHS = {"vit_b": 768, "vit_l": 1024, "vit_h": 1280}  # channels after the patch embedding
_SAM_KEYS = {"vit_b": 314, "vit_l": 482, "vit_h": 594, "tiny_vit": 439}
_SAM_PARAMETERS = {
    "vit_b": 93_735_472,
    "vit_l": 312_342_832,
    "vit_h": 641_090_608,
    "tiny_vit": 10_130_092,
}
_HQ_KEYS = {"vit_b": 339, "vit_l": 507, "vit_h": 619, "tiny_vit": 464}

DECODER_LAYOUT = Layout(66, (("base.block.1.weight", (512, 256, 3, 3)), ("out_conv.weight", (3, 64, 1, 1))))
"""Of micro-sam's decoder, in both its forms (bilinear or transposed up-sampling)."""
DECODER_PARAMETERS = 9_591_235
"""Of the bilinear form."""


def _sam_layout(trunk: str, *, with_hq: bool = False) -> Layout:
    """Return the layout of SAM, MobileSAM or HQ-SAM with one of the image encoders."""
    width = _VIT_WIDTHS.get(trunk)
    patches = (
        _TINY_PATCHES if width is None else ("image_encoder.patch_embed.proj.weight", (width, 3, 16, 16))
    )
    if with_hq:
        return Layout(_HQ_KEYS[trunk], (patches, (_HQ_TOKEN, (1, 256))))
    return Layout(
        _SAM_KEYS[trunk], (patches, ("mask_decoder.iou_token.weight", (1, 256))), absent=(_HQ_TOKEN,)
    )


@dataclass(frozen=True, slots=True)
class _SamRow:
    """The numbers in which SAM's three rows differ."""

    trunk: str
    md5: str
    sha256: str
    size_bytes: int | None = None

    def spec(self) -> ModelSpec:
        """Return the row in full."""
        file = f"sam_{self.trunk}_{self.md5[:6]}.pth"
        return ModelSpec(
            name=f"sam_{self.trunk}",
            title=f"SAM {_short(self.trunk)}",
            family="sam",
            version="1",
            trunk=self.trunk,
            file=file,
            licence="Apache-2.0",
            image_size=1024,
            note="By the authors of SAM (Meta AI), released in April 2023; trained on SA-1B.",
            layout=_sam_layout(self.trunk),
            url=f"{_SAM_URL}/{file}",
            sha256=self.sha256,
            md5=self.md5,
            size_bytes=self.size_bytes,
            n_parameters=_SAM_PARAMETERS[self.trunk],
        )


@dataclass(frozen=True, slots=True)
class _HqRow:
    """The numbers in which HQ-SAM's four rows differ."""

    trunk: str
    md5: str
    n_parameters: int

    def spec(self) -> ModelSpec:
        """Return the row in full."""
        name = f"sam_hq_{'vit_tiny' if self.trunk == 'tiny_vit' else self.trunk}"
        base = "MobileSAM" if self.trunk == "tiny_vit" else "SAM"
        return ModelSpec(
            name=name,
            title="Light HQ-SAM" if self.trunk == "tiny_vit" else f"HQ-SAM {_short(self.trunk)}",
            family="sam",
            version="1-hq",
            trunk=self.trunk,
            file=f"{name}.pth",
            licence="Apache-2.0",
            image_size=1024,
            note=f"By the authors of HQ-SAM (ETH Zürich, HKUST), 2023: {base} frozen, HQ parts trained on HQSeg-44K.",
            layout=_sam_layout(self.trunk, with_hq=True),
            url=f"{_HQ_URL}/{name}.pth",
            md5=self.md5,
            n_parameters=self.n_parameters,
            has_fine=True,
        )


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
                absent=(_HQ2_TOKEN,) if has_spatial else (_HQ2_TOKEN, mark),
            ),
            url=f"{_SAM2_URL}/{folder}/{stem}_{self.size}.pt",
            sha256=self.sha256,
            md5=self.md5,
            size_bytes=self.size_bytes,
            n_parameters=self.n_parameters,
        )


@dataclass(frozen=True, slots=True)
class _MicroRow:
    """What differs among micro-sam's models: encoder, data, addresses and xxh128 of model and decoder."""

    trunk: str
    data: str
    url: str
    xxh128: str
    decoder_url: str
    decoder_xxh128: str

    def spec(self) -> ModelSpec:
        """Return the row in full."""
        short = "vit_t" if self.trunk == "tiny_vit" else self.trunk
        name = f"microsam_{short}_{self.data}"
        licence, licence_note = _MICRO_LICENCES[self.url.startswith(_BIOIMAGE)]
        return ModelSpec(
            name=name,
            title=f"micro-sam {_MICRO_TITLES[self.data]} {_short(self.trunk)}",
            family="sam",
            version="1",
            trunk=self.trunk,
            file=f"{name}.pt",
            licence=licence,
            image_size=1024,
            note=f"By the authors of micro-sam (Göttingen): {_MICRO_NOTES[self.data]}.",
            layout=_sam_layout(self.trunk),
            url=self.url,
            xxh128=self.xxh128,
            n_parameters=_SAM_PARAMETERS[self.trunk],
            licence_note=licence_note,
            decoder=RemoteFile(
                f"{name}_decoder.pt", self.decoder_url, DECODER_LAYOUT, xxh128=self.decoder_xxh128
            ),
        )


_MICRO_TITLES = {
    "lm": "light microscopy",
    "em_organelles": "EM organelles",
    "histopathology": "histopathology",
    "medical_imaging": "medical imaging",
}
_MICRO_NOTES = {
    "lm": "fine-tuned on cells and nuclei in light microscopy",
    "em_organelles": "fine-tuned on mitochondria and nuclei in electron microscopy",
    "histopathology": "fine-tuned on nuclei in histopathology (PathoSAM)",
    "medical_imaging": "fine-tuned on medical images (MedicoSAM)",
}
_MICRO_LICENCES = {
    True: (
        "CC-BY-4.0",
        "CC-BY-4.0: whoever shares these weights, or something made from them, credits micro-sam's authors.",
    ),
    False: (
        NOT_STATED,
        "No licence of these weights is known to be stated (micro-sam's code is MIT): ask its authors "
        "before you use them for more than your own research.",
    ),
}


def _short(trunk: str) -> str:
    """Return how people call an image encoder: "ViT-B", "TinyViT"."""
    return "TinyViT" if trunk == "tiny_vit" else f"ViT-{trunk[-1].upper()}"


NANO = ModelSpec(
    name="sam2-nano",
    title="SAM 2 nano (bundled)",
    family="sam2",
    version="nano",
    trunk="nano",
    file="sam2-nano.safetensors",
    licence="BSD-3-Clause",
    image_size=512,
    note="Trained by `segany train` on procedural microscopy scenes and public-domain nuclei; see its card.",
    layout=Layout(None, (("image_encoder.trunk.stem.0.weight", ()),), absent=(_NANO_TOKEN,)),
)
NANO_HQ = ModelSpec(
    name="sam2-hq-nano",
    title="SAM 2 nano, fine boundaries (bundled)",
    family="sam2",
    version="nano-hq",
    trunk="nano",
    file="sam2-hq-nano.safetensors",
    licence="BSD-3-Clause",
    image_size=512,
    note="sam2-nano, frozen, with HQ parts trained by `segany train` on scenes of thin structures; see its card.",
    layout=Layout(None, (("image_encoder.trunk.stem.0.weight", ()), (_NANO_TOKEN, ()))),
    has_fine=True,
)
BUNDLED = (NANO, NANO_HQ, SEMANTIC_NANO)

_MOBILE = ModelSpec(
    name="mobile_sam",
    title="MobileSAM",
    family="sam",
    version="1",
    trunk="tiny_vit",
    file="mobile_sam.pt",
    licence="Apache-2.0",
    image_size=1024,
    note="By the authors of MobileSAM (Kyung Hee University), 2023: SAM with a small encoder, distilled from ViT-H.",
    layout=_sam_layout("tiny_vit"),
    url="https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
    sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
    md5="f3c0d8cda613564d499310dab6c812cd",
    n_parameters=_SAM_PARAMETERS["tiny_vit"],
)
_HQ2 = ModelSpec(
    name="sam2.1_hq_hiera_large",
    title="HQ-SAM 2.1 large",
    family="sam2",
    version="2.1-hq",
    trunk="hiera_large",
    file="sam2.1_hq_hiera_large.pt",
    licence="Apache-2.0",
    image_size=1024,
    note="By the authors of HQ-SAM, 2024 (beta): SAM 2.1 large with HQ parts. Nobody published a hash of the file.",
    layout=Layout(916, ((_SAM2_PATCHES, (144, 3, 7, 7)), (_HQ2_TOKEN, (1, 256)))),
    url=f"{_HQ_URL}/sam2.1_hq_hiera_large.pt",
    n_parameters=224_623_794,
    has_fine=True,
)

_EDGE = ModelSpec(
    name="edgetam",
    title="EdgeTAM",
    family="sam2",
    version="2.0",
    trunk="repvit_m1",
    file="edgetam.pt",
    licence="Apache-2.0",
    image_size=1024,
    note="By the authors of EdgeTAM (Meta), 2025: a small SAM 2, distilled. Nobody published a hash of the file.",
    layout=Layout(
        982, (("image_encoder.trunk.body.stem.conv1.c.weight", (24, 3, 3, 3)), (_LATENTS, (256, 64)))
    ),
    url="https://github.com/facebookresearch/EdgeTAM/raw/main/checkpoints/edgetam.pt",
    n_parameters=13_895_794,
)

# fmt: off
_SAM_ROWS = (
    _SamRow("vit_b", "01ec64d29a2fca3f0661936605ae66f8",
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    _SamRow("vit_l", "0b3195507c641ddb6910d2bb5adee89c",
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    _SamRow("vit_h", "4b8939a88964f0f4ff5f5b2642c598a6",
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e", 2_564_550_879),
)
_HQ_ROWS = (
    _HqRow("tiny_vit", "3a661ab92d4088ccd6232fa542998a65", 10_578_604),
    _HqRow("vit_b", "c6b8953247bcfdc8bb8ef91e36a6cacc", 94_806_576),
    _HqRow("vit_l", "08947267966e4264fb39523eccc33f86", 313_676_080),
    _HqRow("vit_h", "3560f6b6a5a6edacd814a1325c39640a", 642_686_000),
)
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


def _on_bioimage(trunk: str, data: str, where: str, *, xxh128: str, decoder_xxh128: str) -> _MicroRow:
    """Return a row whose files are on BioImage.IO, in the folder of one version."""
    short = "vit_t" if trunk == "tiny_vit" else trunk
    stem = f"{_BIOIMAGE}/{where}/files/{short}"
    return _MicroRow(trunk, data, f"{stem}.pt", xxh128, f"{stem}_decoder.pt", decoder_xxh128)


def _on_owncloud(
    trunk: str, data: str, shares: tuple[str, str], *, xxh128: str, decoder_xxh128: str
) -> _MicroRow:
    """Return a row whose files, model and decoder, are shared by the University of Göttingen."""
    url, decoder_url = (f"{_OWNCLOUD}/{share}/download" for share in shares)
    return _MicroRow(trunk, data, url, xxh128, decoder_url, decoder_xxh128)


# fmt: off
_MICRO_ROWS = (
    _on_bioimage("vit_b", "lm", "diplomatic-bug/1.2", xxh128="fe9252a29f3f4ea53c15a06de471e186",
                 decoder_xxh128="708b15ac620e235f90bb38612c4929ba"),
    _on_bioimage("vit_l", "lm", "idealistic-rat/1.2", xxh128="017f20677997d628426dec80a8018f9d",
                 decoder_xxh128="2faeafa03819dfe03e7c46a44aaac64a"),
    _on_bioimage("tiny_vit", "lm", "faithful-chicken/1.1", xxh128="72ec5074774761a6e5c05a08942f981e",
                 decoder_xxh128="3e914a5f397b0312cdd36813031f8823"),
    _on_bioimage("vit_b", "em_organelles", "noisy-ox/1.2", xxh128="f3bf2ed83d691456bae2c3f9a05fb438",
                 decoder_xxh128="bb6398956a6b0132c26b631c14f95ce2"),
    _on_bioimage("vit_l", "em_organelles", "humorous-crab/1.2", xxh128="810b084b6e51acdbf760a993d8619f2d",
                 decoder_xxh128="334877640bfdaaabce533e3252a17294"),
    _on_bioimage("tiny_vit", "em_organelles", "greedy-whale/1", xxh128="253474720c497cce605e57c9b1d18fd9",
                 decoder_xxh128="8f897c7bb93174a4d1638827c4dd6f44"),
    _on_owncloud("vit_b", "histopathology", ("sBB4H8CTmIoBZsQ", "KO9AWqynI7SFOBj"),
                 xxh128="ffd1a2cd84570458b257bd95fdd8f974", decoder_xxh128="6a66194dcb6e36199cbee2214ecf7213"),
    _on_owncloud("vit_l", "histopathology", ("IZgnn1cpBq2PHod", "oIs6VSmkOp7XrKF"),
                 xxh128="b591833c89754271023e901281dee3f2", decoder_xxh128="46aab7765d4400e039772d5a50b55c04"),
    _on_owncloud("vit_h", "histopathology", ("L7AcvVz7DoWJ2RZ", "1qAKxy5H0jgwZvM"),
                 xxh128="bd1856dafc156a43fb3aa705f1a6e92e", decoder_xxh128="3ed9f87e46ad5e16935bd8d722c8dc47"),
    _on_owncloud("vit_b", "medical_imaging", ("f5Ol4FrjPQWfjUF", "ahd3ZhZl2e0RIwz"),
                 xxh128="40169f1e3c03a4b67bff58249c176d92", decoder_xxh128="9e498b12f526f119b96c88be76e3b2ed"),
)
# fmt: on

ROWS = (
    *BUNDLED,
    *(row.spec() for row in _SAM_ROWS),
    _MOBILE,
    *(row.spec() for row in _HQ_ROWS),
    *(row.spec() for row in _SAM2_ROWS),
    _HQ2,
    _EDGE,
    *SEMANTIC_ROWS,
    *(row.spec() for row in _MICRO_ROWS),  # after SAM: a file without its name is told by its layout
)
"""Every model that loads by name, in the order in which people see them."""

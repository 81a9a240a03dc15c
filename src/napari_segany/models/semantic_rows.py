"""The rows of Semantic-SAM. Imports no torch.

F. Li et al., "Semantic-SAM: Segment and Recognize Anything at Any Granularity", 2023 (arXiv:2307.04767). Addresses are
those of the authors' repository; nobody published a hash of either file. Keys and parameters are counted from the
authors' modules; every key has "model." before it, and 110 keys of a file name tensors that others name too.
"""

from __future__ import annotations

from .spec import NOT_STATED, Layout, ModelSpec

_URL = "https://github.com/UX-Decoder/Semantic-SAM/releases/download/checkpoint"
_PATCHES = "backbone.patch_embed.proj.weight"
_TOKENS = "sem_seg_head.predictor.mask_tokens.weight"


def _row(letter: str, *, width: int, n_keys: int, n_parameters: int) -> ModelSpec:
    """Return the row of one size; `width` are the channels after the patch embedding."""
    return ModelSpec(
        name=f"semantic_sam_swin{letter}",
        title=f"Semantic-SAM Swin-{letter}",
        family="semantic",
        version="1",
        trunk=f"swin_{letter.lower()}",
        file=f"swin{letter.lower()}_only_sam_many2many.pth",
        licence=NOT_STATED,
        image_size=640,
        note="By the authors of Semantic-SAM (HKUST, Microsoft), 2023; trained on SA-1B, so that it draws six "
        "granularities and names nothing. Nobody published a hash of the file.",
        layout=Layout(n_keys, ((_PATCHES, (width, 3, 4, 4)), (_TOKENS, (6, 256)))),
        url=f"{_URL}/swin{letter.lower()}_only_sam_many2many.pth",
        n_parameters=n_parameters,
        licence_note="No licence of these weights is stated, and the authors' repository has no licence file (headers "
        "of its code say MIT or Apache, its package Apache): ask its authors before you use them for more than your "
        "own research.",
    )


SEMANTIC_NANO = ModelSpec(
    name="semantic-nano",
    title="Semantic-SAM nano (bundled)",
    family="semantic",
    version="nano",
    trunk="nano",
    file="semantic-nano.safetensors",
    licence="BSD-3-Clause",
    image_size=384,
    note="Trained by `segany train` on procedural scenes of nested objects, whose names it knows, and public-domain "
    "nuclei; see its card.",
    layout=Layout(
        None, (("image_encoder.stem.0.weight", ()), ("query_decoder.place_embed.layers.0.weight", ()))
    ),
    has_seeds=True,
)

SEMANTIC_ROWS = (
    _row("T", width=96, n_keys=648, n_parameters=52_980_543),
    _row("L", width=192, n_keys=816, n_parameters=222_799_161),
)

"""SAM, MobileSAM and HQ-SAM, built from a row: a plain encoder at stride 16 and the decoder that SAM 2 inherited.

Papers: Kirillov et al. 2023, "Segment Anything"; Zhang et al. 2023, "Faster Segment Anything" (MobileSAM: another
encoder); Ke et al. 2023, "Segment Anything in High Quality". Numbers and keys are those of the released checkpoints,
checked against their layouts in the tests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor, nn

from .fine import FineConfig, FineHead
from .image_model import ImageFeatures
from .mask_decoder import DecoderConfig, MaskDecoder
from .prompt_encoder import PromptEncoder
from .prompt_labels import BOX_START
from .promptable import Promptable, PromptableConfig
from .tiny_vit import TINY_VIT, TinyVitConfig, TinyVitEncoder
from .vit import VIT, VitConfig, VitEncoder


@dataclass(frozen=True, slots=True)
class SamConfig(PromptableConfig):
    """A SAM: which encoder it has, beside what all promptable models share."""

    trunk: VitConfig | TinyVitConfig


class Sam(Promptable):
    """SAM, with HQ-SAM's parts where the row has them."""

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        self.config: SamConfig = config
        self.image_encoder: nn.Module = (
            VitEncoder(config.trunk) if isinstance(config.trunk, VitConfig) else TinyVitEncoder(config.trunk)
        )
        self.prompt_encoder = config.prompt_encoder()
        self.mask_decoder = MaskDecoder(config.width, config.decoder, projects_fine_maps=False)

    @property
    def prompts(self) -> PromptEncoder:
        """The prompt encoder."""
        return self.prompt_encoder

    @property
    def decoder(self) -> MaskDecoder:
        """The mask decoder."""
        return self.mask_decoder

    def encode(self, pixels: Tensor) -> ImageFeatures:
        """Return the features of (B, 3, S, S) normalised pixels."""
        embedding, early = self.image_encoder(pixels)
        if self.config.has_fine:
            assert isinstance(self.mask_decoder.fine, FineHead)
            return ImageFeatures(embedding, (self.mask_decoder.fine.of_image(embedding, early),))
        return ImageFeatures(embedding)

    def encoder_parts(self) -> list[nn.Module]:
        """Return the modules that images alone pass through; they may run in another number format than prompts."""
        if not self.config.has_fine:
            return [self.image_encoder]
        fine = self.mask_decoder.fine
        assert isinstance(fine, FineHead)
        return [self.image_encoder, fine.compress_vit_feat, fine.embedding_encoder]

    def needs_padding(self, labels: Tensor) -> bool:
        """Return whether a padding token goes behind the prompts: behind clicks without a box."""
        return labels.shape[1] > 0 and not bool((labels >= BOX_START).any())


_RENAMED = re.compile(r"(\.transformer\.layers\.\d+\.mlp)\.lin([12])\.")
_FINE_PARTS = ("hf_token.", "hf_mlp.", "compress_vit_feat.", "embedding_encoder.", "embedding_maskfeature.")


def released_key(key: str) -> str:
    """Return our key for a key of a released SAM, HQ-SAM or HQ-SAM 2: the decoder's MLPs and fine parts moved."""
    key = _RENAMED.sub(lambda m: f"{m[1]}.layers.{int(m[2]) - 1}.", key)
    head, decoder, rest = key.partition("mask_decoder.")
    return f"{head}{decoder}fine.{rest}" if rest.startswith(_FINE_PARTS) else key


def _row(name: str, trunk: VitConfig | TinyVitConfig, *, early_width: int | None = None) -> SamConfig:
    """Return one row; `early_width` are the channels of the early feature that HQ-SAM reads."""
    fine = None if early_width is None else FineConfig(early_width)
    return SamConfig(name, trunk, resizing="pad", decoder=DecoderConfig(generation=1, fine=fine))


_TINY = TINY_VIT["tiny_vit"]
SAM: dict[str, SamConfig] = {
    **{f"sam_{size}": _row(f"sam_{size}", config) for size, config in VIT.items()},
    "mobile_sam": _row("mobile_sam", _TINY),
    **{
        f"sam_hq_{size}": _row(f"sam_hq_{size}", config, early_width=config.width)
        for size, config in VIT.items()
    },
    "sam_hq_vit_tiny": _row("sam_hq_vit_tiny", _TINY, early_width=160),
}
"""SAM's own rows; the micro-sam models are these with other weights."""

"""SAM 2, SAM 2.1 and EdgeTAM, built from a row; and the bundled nano, the same prompt encoder and decoder over a small
trunk.

Papers: Ravi et al. 2024, "SAM 2: Segment Anything in Images and Videos"; Zhou et al. 2025, "EdgeTAM: On-Device Track
Anything Model". State-dict keys are those of the released checkpoints, so these load without a key map.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .close_memory import CloseMemory, CloseMemoryConfig
from .fine import FineConfig
from .hiera import HIERA, Hiera, HieraConfig
from .image_model import ImageFeatures
from .layers import Mlp, sine_position_code
from .mask_decoder import DecoderConfig, MaskDecoder
from .memory import MemoryAttention, MemoryConfig, MemoryEncoder
from .nano import NANO, NanoConfig, NanoNeck, NanoTrunk
from .perceiver import PerceiverConfig, SpatialPerceiver
from .prompt_encoder import PromptEncoder
from .promptable import Promptable, PromptableConfig
from .repvit import REPVIT, RepVit, RepVitConfig
from .size_head import SizeHead, seen_at


@dataclass(frozen=True, slots=True)
class Sam2Config(PromptableConfig):
    """Everything that tells one SAM 2 from another; `memory` is None for models of single images.

    The bundled models' is a `CloseMemoryConfig`: they follow objects in windows. `foretells_sides` adds what says how
    large an object may be before it is drawn.
    """

    trunk: HieraConfig | RepVitConfig | NanoConfig
    _: KW_ONLY
    version: str = "2.1"
    memory: MemoryConfig | None = field(default_factory=MemoryConfig)
    foretells_sides: bool = False


class FpnNeck(nn.Module):
    """Lateral 1 x 1 convolutions on four maps; the coarsest is added into the one above it only."""

    def __init__(self, widths: tuple[int, ...], out_width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Sequential()
            for _ in widths  # coarsest first, as in the released keys `convs.N.conv`
        )
        for module, width in zip(self.convs, reversed(widths), strict=True):
            module.add_module("conv", nn.Conv2d(width, out_width, kernel_size=1))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Turn four maps, finest first, into maps of equal width at strides 4, 8 and 16."""
        lateral = [conv(x) for conv, x in zip(reversed(self.convs), maps, strict=True)]
        lateral[2] = lateral[2] + F.interpolate(lateral[3].float(), scale_factor=2.0, mode="nearest").to(
            lateral[2].dtype
        )
        return lateral[:3]


class ImageEncoder(nn.Module):
    """Hiera or RepViT, and the neck."""

    def __init__(self, trunk: HieraConfig | RepVitConfig, width: int) -> None:
        super().__init__()
        self.trunk = Hiera(trunk) if isinstance(trunk, HieraConfig) else RepVit(trunk)
        self.neck = FpnNeck(trunk.widths, width)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Turn (B, 3, S, S) pixels into (B, C, S / s, S / s) maps for s = 4, 8, 16."""
        return self.neck(self.trunk(pixels))


class NanoEncoder(nn.Module):
    """The bundled models' trunk and neck."""

    def __init__(self, config: NanoConfig) -> None:
        super().__init__()
        self.trunk = NanoTrunk(config)
        self.neck = NanoNeck(config)

    def forward(self, pixels: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Turn (B, 3, H, W) pixels into the embedding at stride 8 and the maps at strides 2 and 4."""
        return self.neck(self.trunk(pixels))


class Sam2(Promptable):
    """The image model of SAM 2, and the parameters of its memory where the row has one."""

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        self.config: Sam2Config = config
        is_nano = isinstance(config.trunk, NanoConfig)
        self.image_encoder: nn.Module = (
            NanoEncoder(config.trunk)
            if isinstance(config.trunk, NanoConfig)
            else ImageEncoder(config.trunk, config.width)
        )
        self.sam_prompt_encoder = config.prompt_encoder()
        self.sam_mask_decoder = MaskDecoder(config.width, config.decoder, projects_fine_maps=not is_nano)
        if isinstance(config.memory, CloseMemoryConfig):
            self.memory = CloseMemory(
                config.width,
                config.memory,
                prompts=config.prompt_encoder(),
                decoder=MaskDecoder(
                    config.width,
                    replace(config.decoder, fine=None, judges=False),
                    projects_fine_maps=False,
                ),
            )
        elif config.memory is not None:
            self._add_memory(config.memory)
        if config.foretells_sides:  # last, so that a seed gives all else the weights that it gave before
            self.size_head = SizeHead(config.width)

    @property
    def prompts(self) -> PromptEncoder:
        """The prompt encoder."""
        return self.sam_prompt_encoder

    @property
    def decoder(self) -> MaskDecoder:
        """The mask decoder."""
        return self.sam_mask_decoder

    def _add_memory(self, memory: MemoryConfig) -> None:
        """Create the modules and tables that propagation uses."""
        width = self.config.width
        self.memory_attention = MemoryAttention(width, memory)
        self.memory_encoder = MemoryEncoder(width, memory)
        if memory.perceiver is not None:
            self.spatial_perceiver = SpatialPerceiver(memory.width, memory.perceiver)
        self.maskmem_tpos_enc = nn.Parameter(torch.zeros(memory.frames, 1, 1, memory.width))
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, width))
        self.no_mem_pos_enc = nn.Parameter(torch.zeros(1, 1, width))
        self.no_obj_ptr = nn.Parameter(torch.zeros(1, width))
        self.mask_downsample = nn.Conv2d(1, 1, kernel_size=4, stride=4)
        self.obj_ptr_proj = Mlp((width, width, width, width))
        if self.config.version == "2.1":
            self.no_obj_embed_spatial = nn.Parameter(torch.zeros(1, memory.width))
            self.obj_ptr_tpos_proj = nn.Linear(width, memory.width)

    def encoder_parts(self) -> list[nn.Module]:
        """Return the modules that images alone pass through; they may run in another number format than prompts."""
        decoder = self.sam_mask_decoder
        parts: list[nn.Module] = [decoder.conv_s0, decoder.conv_s1] if decoder.projects_fine_maps else []
        return [self.image_encoder, *parts]

    def memory_parts(self) -> list[nn.Module]:
        """Return the modules of a memory of whole frames that may run in the encoder's number format."""
        if self.config.memory is None or isinstance(self.config.memory, CloseMemoryConfig):
            return []
        return [*self.memory_attention.products(), *self.memory_encoder.products()]

    def encode(self, pixels: Tensor) -> ImageFeatures:
        """Return the features of (B, 3, H, W) normalised pixels, as prompts on single images see them."""
        features = self.encode_frame(pixels)
        return self.without_memory(features)

    def encode_frame(self, pixels: Tensor) -> ImageFeatures:
        """Return the features of (B, 3, H, W) normalised pixels before any memory, or the lack of one, is added."""
        if isinstance(self.config.trunk, NanoConfig):  # the encoder itself may be replaced (predict.engines)
            embedding, fine = self.image_encoder(pixels)
            if self.config.has_fine:
                pairs = F.pixel_unshuffle(pixels, 2).contiguous(memory_format=torch.channels_last)
                fine = (*fine, pairs)
            return ImageFeatures(embedding, fine)
        stride4, stride8, stride16 = self.image_encoder(pixels)
        decoder = self.sam_mask_decoder
        return ImageFeatures(stride16, (decoder.conv_s0(stride4), decoder.conv_s1(stride8)))

    def without_memory(self, features: ImageFeatures) -> ImageFeatures:
        """Mark features of `encode_frame` as those of a frame that nothing is remembered of."""
        if self.config.memory is None or isinstance(self.config.memory, CloseMemoryConfig):
            return features
        return replace(features, embedding=features.embedding + self.no_mem_embed[0, 0, :, None, None])

    def sides(self, features: ImageFeatures, xy: Tensor) -> Tensor | None:
        """Return how long the objects may be that (N, 2) places (x, y) lie in, (N,), all in frame pixels."""
        if not self.config.foretells_sides:
            return None
        weight = self.size_head.line.weight
        seen = seen_at(features.embedding, xy, stride=self.config.stride).to(weight.device, weight.dtype)
        sides: Tensor = self.size_head(seen).exp2()
        return sides

    def position_code(self, size: tuple[int, int]) -> Tensor:
        """Return the (C, h, w) sine code of a feature map, as the memory attention adds it."""
        return sine_position_code(self.config.width, size)


NANO_DECODER = DecoderConfig(heads=4, mlp_width=512, iou_width=128, judges=True, spread=32)

_NANO = Sam2Config(
    "sam2-nano",
    NANO["nano"],
    version="nano",
    image_size=512,
    stride=8,
    width=128,
    mask_channels=32,
    click_sigma=4.0,
    resizing="fit",
    largest_size=1280,
    is_local=True,
    decoder=NANO_DECODER,
    memory=CloseMemoryConfig(),
    foretells_sides=True,
)

SAM2: dict[str, Sam2Config] = {
    f"{prefix}_{trunk}": Sam2Config(f"{prefix}_{trunk}", config, version=version)
    for prefix, version in (("sam2", "2.0"), ("sam2.1", "2.1"))
    for trunk, config in HIERA.items()
} | {
    "sam2.1_hq_hiera_large": Sam2Config(
        "sam2.1_hq_hiera_large", HIERA["hiera_large"], decoder=DecoderConfig(fine=FineConfig())
    ),
    "edgetam": Sam2Config(
        "edgetam",
        REPVIT["repvit_m1"],
        version="2.0",
        memory=MemoryConfig(layers=2, perceiver=PerceiverConfig()),
    ),
    "sam2-nano": _NANO,
    "sam2-hq-nano": replace(
        _NANO,
        name="sam2-hq-nano",
        version="nano-hq",
        decoder=replace(NANO_DECODER, fine=FineConfig(hidden=64, spread=32, judge=48)),
    ),
}


def build_sam2(config: str | Sam2Config) -> Sam2:
    """Return a freshly initialised model of a row, by name or by its configuration."""
    return Sam2(SAM2[config] if isinstance(config, str) else config)

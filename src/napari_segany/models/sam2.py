"""SAM 2 and SAM 2.1, built from a row; and the bundled nano, the same prompt encoder and decoder over a small trunk.

Paper: Ravi et al. 2024, "SAM 2: Segment Anything in Images and Videos". State-dict keys are those of the released
checkpoints, so these load without a key map.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .hiera import HIERA, Hiera, HieraConfig
from .layers import Mlp, sine_position_code
from .mask_decoder import DecoderConfig, MaskDecoder, MaskOutput
from .memory import MemoryAttention, MemoryConfig, MemoryEncoder
from .nano import NANO, NanoConfig, NanoNeck, NanoTrunk
from .prompt_encoder import PADDING, PromptEncoder, PromptGrid


@dataclass(frozen=True, slots=True)
class Sam2Config:
    """Everything that tells one SAM 2 from another.

    `image_size` is the frame's side in pixels and `stride` that of the image embedding. `resizing` says how an image
    fills the frame: stretched to a square, or with its aspect kept; then larger images get frames of up to
    `largest_size` on their longer side. `is_local` models look at small objects again, magnified, and drop stray
    islands of a mask; the released models answer as published. `memory` is None for models of single images.
    """

    name: str
    trunk: HieraConfig | NanoConfig
    version: str = "2.1"
    image_size: int = 1024
    stride: int = 16
    width: int = 256
    mask_channels: int = 16
    click_sigma: float | None = None
    resizing: str = "stretch"
    largest_size: int = 1024
    is_local: bool = False
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    memory: MemoryConfig | None = field(default_factory=MemoryConfig)


@dataclass(frozen=True, slots=True, eq=False)
class ImageFeatures:
    """What the decoder needs of B images: `embedding` (B, C, h, w), `fine` (B, C/8, 4h, 4w) and (B, C/4, 2h, 2w)."""

    embedding: Tensor
    fine: tuple[Tensor, Tensor]

    def of(self, index: Tensor) -> ImageFeatures:
        """Return the features of images `index` (N,), one row for each prompt."""
        return ImageFeatures(self.embedding[index], (self.fine[0][index], self.fine[1][index]))


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
    """Hiera and its neck."""

    def __init__(self, trunk: HieraConfig, width: int) -> None:
        super().__init__()
        self.trunk = Hiera(trunk)
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


class Sam2(nn.Module):
    """The image model of SAM 2, and the parameters of its memory where the row has one."""

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        self.config = config
        is_nano = isinstance(config.trunk, NanoConfig)
        self.image_encoder: nn.Module = (
            NanoEncoder(config.trunk)
            if isinstance(config.trunk, NanoConfig)
            else ImageEncoder(config.trunk, config.width)
        )
        self.sam_prompt_encoder = PromptEncoder(
            config.width,
            PromptGrid(config.image_size, config.stride),
            mask_channels=config.mask_channels,
            click_sigma=config.click_sigma,
        )
        self.sam_mask_decoder = MaskDecoder(config.width, config.decoder, projects_fine_maps=not is_nano)
        if config.memory is not None:
            self._add_memory(config.memory)

    def _add_memory(self, memory: MemoryConfig) -> None:
        """Create the modules and tables that propagation uses."""
        width = self.config.width
        self.memory_attention = MemoryAttention(width, memory)
        self.memory_encoder = MemoryEncoder(width, memory)
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
        narrow = [decoder.conv_s0, decoder.conv_s1] if decoder.projects_fine_maps else []
        return [self.image_encoder, *narrow]

    def encode(self, pixels: Tensor) -> ImageFeatures:
        """Return the features of (B, 3, H, W) normalised pixels."""
        if isinstance(self.image_encoder, NanoEncoder):
            embedding, fine = self.image_encoder(pixels)
            return ImageFeatures(embedding, fine)
        stride4, stride8, stride16 = self.image_encoder(pixels)
        decoder = self.sam_mask_decoder
        fine = (decoder.conv_s0(stride4), decoder.conv_s1(stride8))
        if self.config.memory is not None:
            stride16 = stride16 + self.no_mem_embed[0, 0, :, None, None]
        return ImageFeatures(stride16, fine)

    def decode_all(
        self,
        features: ImageFeatures,
        xy: Tensor,
        labels: Tensor,
        *,
        masks: Tensor | None = None,
        origin: tuple[float, float] = (0.0, 0.0),
    ) -> MaskOutput:
        """Return all four masks of B prompts, before any choice among them.

        Parameters
        ----------
        features
            Of one image, or of B images, one a prompt.
        xy : (B, N, 2)
            (x, y) in frame pixels, box corners before clicks; a padding point is appended here, if there is any.
        labels : (B, N)
        masks : (B, 1, 4h, 4w)
            Earlier logits.
        origin
            Where the features' first pixel lies in the frame, (x, y), if they are a part of one.
        """
        size = (features.embedding.shape[2], features.embedding.shape[3])
        if xy.shape[1] > 0:  # a mask alone has no sparse part at all
            xy = torch.cat((xy, xy.new_zeros(len(xy), 1, 2)), dim=1)
            labels = torch.cat((labels, labels.new_full((len(labels), 1), PADDING)), dim=1)
        sparse, dense = self.sam_prompt_encoder(xy, labels, masks=masks, size=size, origin=origin)
        output: MaskOutput = self.sam_mask_decoder(
            features.embedding,
            features.fine,
            sparse=sparse,
            dense=dense,
            image_code=self.sam_prompt_encoder.dense_code(size, origin=origin),
        )
        return output

    def decode(
        self,
        features: ImageFeatures,
        xy: Tensor,
        labels: Tensor,
        *,
        masks: Tensor | None = None,
        multimask: bool = True,
    ) -> MaskOutput:
        """Return three masks, or the one stable mask, of each of B prompts; see `decode_all`."""
        output = self.decode_all(features, xy, labels, masks=masks)
        return self.sam_mask_decoder.select(output, multimask=multimask)

    def forward(self, pixels: Tensor, xy: Tensor, labels: Tensor) -> MaskOutput:
        """Encode (B, 3, H, W) images and decode one prompt on each."""
        return self.decode_all(self.encode(pixels), xy, labels)

    def position_code(self, size: tuple[int, int]) -> Tensor:
        """Return the (C, h, w) sine code of a feature map, as the memory attention adds it."""
        return sine_position_code(self.config.width, size)


NANO_DECODER = DecoderConfig(heads=4, mlp_width=512, iou_width=128)

SAM2: dict[str, Sam2Config] = {
    f"{prefix}_{trunk}": Sam2Config(f"{prefix}_{trunk}", config, version=version)
    for prefix, version in (("sam2", "2.0"), ("sam2.1", "2.1"))
    for trunk, config in HIERA.items()
} | {
    "sam2-nano": Sam2Config(
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
        memory=None,
    )
}


def build_sam2(config: str | Sam2Config) -> Sam2:
    """Return a freshly initialised model of a row, by name or by its configuration."""
    return Sam2(SAM2[config] if isinstance(config, str) else config)

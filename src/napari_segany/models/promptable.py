"""What SAM and SAM 2 share: an image encoder, a prompt encoder and a mask decoder, called in two steps.

Papers: Kirillov et al. 2023 (section 3), Ravi et al. 2024 (section 4). A family says how it encodes images, when
prompts get a padding token, and under which names its parts were released.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field, replace

import torch
from torch import Tensor

from .image_model import ImageFeatures, ImageModel, ImageModelConfig
from .mask_decoder import DecoderConfig, FineUse, MaskDecoder, MaskOutput
from .picking import best_one, three_apart
from .prompt_encoder import PromptEncoder, PromptGrid, clicks_on
from .prompt_labels import PADDING


@dataclass(frozen=True, slots=True)
class PromptableConfig(ImageModelConfig):
    """What predictors need to know of SAM and SAM 2, whatever the encoder.

    `width` are the channels of the embedding, `mask_channels` those of earlier masks on their way into it. With
    `click_sigma`, prompts are drawn into the dense path, too.
    """

    _: KW_ONLY
    width: int = 256
    mask_channels: int = 16
    click_sigma: float | None = None
    decoder: DecoderConfig = field(default_factory=DecoderConfig)

    @property
    def has_fine(self) -> bool:
        """Whether the model draws fine boundaries."""
        return self.decoder.fine is not None

    def prompt_encoder(self) -> PromptEncoder:
        """Return a new prompt encoder."""
        grid = PromptGrid(self.image_size, self.stride)
        return PromptEncoder(self.width, grid, mask_channels=self.mask_channels, click_sigma=self.click_sigma)


class Promptable(ImageModel):
    """A model that answers prompts on encoded images."""

    config: PromptableConfig

    @property
    def prompts(self) -> PromptEncoder:
        """The prompt encoder."""
        raise NotImplementedError

    @property
    def decoder(self) -> MaskDecoder:
        """The mask decoder."""
        raise NotImplementedError

    def prepared(self, features: ImageFeatures) -> ImageFeatures:
        """Return the features of one image with what every prompt without an earlier mask would work out anew.

        Models that draw prompts as maps have nothing of the kind.
        """
        if self.config.click_sigma is not None:
            return features
        size = (features.embedding.shape[2], features.embedding.shape[3])
        source = features.embedding + self.prompts.no_mask_embed.weight[..., None, None]
        look = self.decoder.transformer.first_look(source, self.prompts.dense_code(size))
        return replace(features, look=look)

    def needs_padding(self, labels: Tensor) -> bool:
        """Return whether a padding token goes behind the prompts with these (B, N) labels."""
        return labels.shape[1] > 0  # a mask alone has no sparse part at all

    def decode_all(
        self,
        features: ImageFeatures,
        xy: Tensor,
        labels: Tensor,
        *,
        masks: Tensor | None = None,
        with_fine: bool = False,
        kept: slice = slice(None),
    ) -> MaskOutput:
        """Return all four masks of B prompts, before any choice among them.

        Parameters
        ----------
        features
            Of one image, or of B images, one a prompt.
        xy : (B, N, 2)
            (x, y) in frame pixels; a padding point is appended here, where the model wants one.
        labels : (B, N)
        masks : (B, 1, 4h, 4w)
            Earlier logits.
        with_fine
            Let the fine head answer too, in models that have one.
        kept
            Which of the four masks to draw.
        """
        size, origin = (features.embedding.shape[2], features.embedding.shape[3]), features.origin
        if self.needs_padding(labels):
            xy = torch.cat((xy, xy.new_zeros(len(xy), 1, 2)), dim=1)
            labels = torch.cat((labels, labels.new_full((len(labels), 1), PADDING)), dim=1)
        sparse, dense = self.prompts(xy, labels, masks=masks, size=size, origin=origin)
        output: MaskOutput = self.decoder(
            features.embedding,
            features.fine,
            sparse=sparse,
            dense=dense,
            image_code=self.prompts.dense_code(size, origin=origin),
            with_fine=with_fine,
            kept=kept,
            look=features.look if masks is None and origin == (0.0, 0.0) else None,
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
        fine: FineUse = "off",
    ) -> MaskOutput:
        """Return three masks, or the one that the model would show, of each of B prompts; see `decode_all`.

        Judged scores fall with every click that a mask does not obey.
        """
        with_fine = fine != "off"
        kept = self.decoder.needed(multimask=multimask)
        output = self.decode_all(features, xy, labels, masks=masks, with_fine=with_fine, kept=kept)
        if not self.config.decoder.judges:
            return self.decoder.select(output, multimask=multimask, fine=fine)
        output = self.decoder.changed(output, fine=fine)
        size = (output.logits.shape[2], output.logits.shape[3])
        clicks = clicks_on(xy, labels, frame=self.frame_of(features), size=size)
        output = replace(output, ious=output.ious * clicks.obeyed(output.logits))
        choose = three_apart if multimask else best_one
        return choose(output, obeyed=clicks.obeyed)

    def finish(self, output: MaskOutput, *, within: Tensor | None = None) -> MaskOutput:
        """Return an answer with fine boundaries, where those were left for last."""
        return self.decoder.finish(output, within=within)

    def forward(self, pixels: Tensor, xy: Tensor, labels: Tensor) -> MaskOutput:
        """Encode (B, 3, H, W) images and decode one prompt on each."""
        return self.decode_all(self.encode(pixels), xy, labels)

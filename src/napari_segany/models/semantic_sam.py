"""Semantic-SAM, built from a row; and the bundled nano, which also finds objects by itself and names them.

Paper: Li et al. 2023, "Semantic-SAM: Segment and Recognize Anything at Any Granularity". A click or a box becomes six
masks, one for each level of granularity. The released models take one click at a time and no negative ones; further
clicks choose here: what a level shows is the answer to that click whose mask obeys the most clicks.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .deformable import DeformableConfig
from .image_model import ImageFeatures, ImageModel, ImageModelConfig
from .mask_decoder import FineUse, MaskOutput
from .nano import NANO, NanoConfig, NanoTrunk
from .pixel_decoder import PixelDecoder, PixelDecoderConfig
from .prompt_encoder import obeyed
from .prompt_labels import BOX_END, BOX_START, POSITIVE
from .query_decoder import TOKENS, Answers, Looked, QueryDecoder, QueryDecoderConfig, seed_boxes
from .swin import SWIN, Swin, SwinConfig
from .text import TextConfig, TextEncoder, Vocabulary, WordScores

CLICK_SIDE = 0.005
"""Share of the frame that stands for the size of a click."""


@dataclass(frozen=True, slots=True)
class SemanticConfig(ImageModelConfig):
    """Everything that tells one Semantic-SAM from another; without `text` a model knows no words.

    `vocabulary` are the class names that the weights were taught.
    """

    trunk: SwinConfig | NanoConfig
    _: KW_ONLY
    image_size: int = 640
    stride: int = 16
    resizing: str = "short"
    largest_size: int = 1333
    pixel_decoder: PixelDecoderConfig = field(default_factory=PixelDecoderConfig)
    query_decoder: QueryDecoderConfig = field(default_factory=QueryDecoderConfig)
    text: TextConfig | None = None
    vocabulary: Vocabulary = field(default_factory=lambda: Vocabulary((), ()))

    @property
    def has_words(self) -> bool:
        """Whether the model names what it finds."""
        return self.text is not None


@dataclass(frozen=True, slots=True, eq=False)
class FoundQueries:
    """N queries without prompts, after the last layer.

    `states` (N, C), the (N, 4) `boxes` that they looked around, predicted `ious` (N,), and `is_part` (N,).
    """

    states: Tensor
    boxes: Tensor
    ious: Tensor
    is_part: Tensor

    def rows(self, index: Tensor) -> FoundQueries:
        """Return some of them."""
        return FoundQueries(self.states[index], self.boxes[index], self.ious[index], self.is_part[index])


class SemanticSam(ImageModel):
    """Trunk, pixel decoder and query decoder; in rows with words, a text encoder too."""

    def __init__(self, config: SemanticConfig) -> None:
        super().__init__()
        self.config: SemanticConfig = config
        self.image_encoder: nn.Module = (
            Swin(config.trunk) if isinstance(config.trunk, SwinConfig) else NanoTrunk(config.trunk)
        )
        self.pixel_decoder = PixelDecoder(config.trunk.widths, config.pixel_decoder)
        self.query_decoder = QueryDecoder(config.query_decoder)
        if config.text is not None:
            self.text_encoder = TextEncoder(config.text, config.query_decoder.projection)
            self.word_scores = WordScores(config.query_decoder.projection)

    def encoder_parts(self) -> list[nn.Module]:
        """Return the trunk; what follows stays in float32, as released."""
        return [self.image_encoder]

    def encode(self, pixels: Tensor) -> ImageFeatures:
        """Return the features of (B, 3, H, W) normalised pixels.

        `embedding` is the level at a quarter of the masks' resolution; `fine` are the mask features and then the
        other levels, finest first.
        """
        maps = [x.to(self.pixel_decoder.mask_features.weight.dtype) for x in self.image_encoder(pixels)]
        masks, levels = self.pixel_decoder(maps)
        first = self._first
        return ImageFeatures(levels[first], (masks, *levels[:first], *levels[first + 1 :]))

    @property
    def _first(self) -> int:
        """Which level, counted from the finest, is the embedding."""
        return 0 if self.config.pixel_decoder.is_narrow else 1

    def levels_of(self, features: ImageFeatures) -> list[Tensor]:
        """Return the levels, finest first."""
        others = list(features.fine[1:])
        return [*others[: self._first], features.embedding, *others[self._first :]]

    def look(
        self, features: ImageFeatures, boxes: Tensor, is_box: Tensor, *, reference: bool = False
    ) -> list[Looked]:
        """Return the six queries of each of N prompts on B images behind every layer.

        Parameters
        ----------
        boxes : (B, N, 4)
            (x, y, w, h), centre and sides, as shares of the frame.
        is_box : (B, N)
            False for clicks, whose sides stand for none.
        reference
            Let queries of all prompts of an image see each other, as the authors' code does: then the answer to a
            click depends on the other clicks.
        """
        frame = self.frame_of(features)
        queries = self.query_decoder.of_prompts(boxes, is_box, frame=frame)
        if reference:
            queries = queries.together()
        return self.query_decoder.look(queries, self.levels_of(features), frame=frame)

    def answers(self, features: ImageFeatures, looked: Looked, asked: Tensor | None = None) -> Answers:
        """Return what the queries of a layer found; those of prompts with their places, see `QueryDecoder.answer`."""
        return self.query_decoder.answer(looked, features.fine[0], asked)

    def decode(
        self,
        features: ImageFeatures,
        xy: Tensor,
        labels: Tensor,
        *,
        masks: Tensor | None = None,
        multimask: bool = True,
        fine: FineUse = "off",
        reference: bool = False,
    ) -> MaskOutput:
        """Return the six masks of each of N prompts on one image, or the best one; see `ImageModel.decode`.

        A box, or the box of a mask where nothing was clicked on, is one question; without one, every positive click is
        a question of its own, and each level shows the answer that obeys most clicks. Scores fall with every click
        that a mask does not obey.
        """
        boxes, is_box = self._questions(xy, labels, masks, frame=self.frame_of(features))
        count, each = is_box.shape
        asked = boxes.flatten(0, 1)[None], is_box.flatten()[None]
        looked = self.look(features, *asked, reference=reference)[-1]
        found = self.answers(features, looked, asked[0][..., :2])
        shape = (count, each, TOKENS)
        logits = found.logits.reshape(*shape, *found.logits.shape[2:])
        scores = found.ious.reshape(shape).clamp(0, 1)
        scores = scores * obeyed(logits, xy, labels, frame=self.frame_of(features))
        chosen = scores.argmax(dim=1)  # (N, 6)
        rows, tokens = torch.arange(count, device=xy.device)[:, None], torch.arange(TOKENS, device=xy.device)
        states = found.states.reshape(*shape, -1)
        output = MaskOutput(
            logits[rows, chosen, tokens],
            scores[rows, chosen, tokens],
            None,
            states[rows, chosen, tokens],
        )
        return output if multimask else output.masks(output.ious.argmax(dim=1, keepdim=True))

    def found(self, features: ImageFeatures, *, least: float, most: int) -> FoundQueries | None:
        """Return what is found in one image without prompts, None where there is nothing; bundled models only.

        `least` is the chance, 0 to 1, that a place must have to be an object's heart, `most` how many are looked at.
        """
        levels = self.levels_of(features)
        maps = self.query_decoder.seed_maps(levels[0])
        chances = maps[0, :, 0].float().sigmoid()  # (2, h, w)
        peaks = chances * (F.max_pool2d(chances, kernel_size=3, stride=1, padding=1) == chances)
        best = peaks.flatten().topk(min(most, peaks.numel()))
        cells = best.indices[(best.values >= least) & (best.values > 0)][None]
        if cells.shape[1] == 0:
            return None
        boxes, is_part = seed_boxes(maps, cells)
        queries = self.query_decoder.of_seeds(boxes, is_part)
        looked = self.query_decoder.look(queries, levels, frame=self.frame_of(features))[-1]
        ious = self.query_decoder.scores(looked)[0]
        return FoundQueries(looked.states[0], looked.boxes[0], ious, is_part[0])

    def drawn(self, features: ImageFeatures, found: FoundQueries) -> Answers:
        """Return the masks of N queries that were found, B = 1."""
        return self.answers(features, Looked(found.states[None], found.boxes[None], found.boxes[None]))

    def _questions(
        self, xy: Tensor, labels: Tensor, masks: Tensor | None, *, frame: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return the (N, Q, 4) boxes that N prompts ask about, and (N, Q) whether they are boxes."""
        size = xy.new_tensor((frame[1], frame[0]))
        if labels.shape[1] and bool((labels == BOX_START).any()):
            corners = (
                torch.stack([xy[labels == end] for end in (BOX_START, BOX_END)], dim=1) + 0.5
            ) / size  # (N, 2, 2)
            boxes = torch.cat((corners.mean(dim=1), corners[:, 1] - corners[:, 0]), dim=-1)[:, None]
            return boxes, torch.ones(boxes.shape[:2], dtype=torch.bool, device=xy.device)
        shows_nothing = labels.shape[1] == 0 or not bool((labels == POSITIVE).any(dim=1).all())
        if shows_nothing and masks is not None:
            boxes = boxes_of(masks > 0)
            return boxes, torch.ones(boxes.shape[:2], dtype=torch.bool, device=xy.device)
        points = (xy + 0.5) / size
        first = (labels == POSITIVE).int().argmax(dim=1)  # what is not a positive click repeats the first one
        points = torch.where(
            (labels == POSITIVE)[..., None], points, points[torch.arange(len(points)), first][:, None]
        )
        boxes = torch.cat((points, torch.full_like(points, CLICK_SIDE)), dim=-1)
        return boxes, torch.zeros(boxes.shape[:2], dtype=torch.bool, device=xy.device)

    def word_logits(self, states: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Return (..., K + 1) logits of (..., C) states as objects and as parts, the last for none of K words."""
        decoder = self.query_decoder
        answer = self.word_scores(states, words, embeds=(decoder.class_embed, decoder.class_embed_part))
        return cast("tuple[Tensor, Tensor]", answer)


def boxes_of(inside: Tensor) -> Tensor:
    """Return the (..., 4) boxes (x, y, w, h), as shares, of (..., H, W) bool masks; the whole frame of empty ones."""
    ends = []
    for along in (-2, -1):  # columns, then rows
        line = inside.any(dim=along)
        count, is_empty = line.shape[-1], ~line.any(dim=-1)
        low = line.float().argmax(dim=-1)
        high = torch.where(is_empty, count, count - line.flip(-1).float().argmax(dim=-1))
        ends.append((low / count, high / count))
    (x0, x1), (y0, y1) = ends
    return torch.stack(((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0), dim=-1)


_VOCABULARY = Vocabulary(
    objects=(
        "nucleus",
        "cell",
        "bacterium",
        "yeast",
        "bud",
        "budding yeast",
        "neuron",
        "filament",
        "spot",
        "gland",
        "organoid",
        "colony",
        "tissue",
        "vessel",
    ),
    parts=(
        "nucleus",
        "nucleolus",
        "spot",
        "mitochondrion",
        "filament",
        "vacuole",
        "vesicle",
        "lumen",
        "soma",
        "flagellum",
        "cilia",
        "filopodium",
    ),
)
_NANO_WIDTH, _NANO_MASKS, _NANO_VOTES = 128, 48, 3
_NANO_DEFORMABLE = DeformableConfig(levels=3)

SEMANTIC: dict[str, SemanticConfig] = {
    "semantic_sam_swinT": SemanticConfig("semantic_sam_swinT", SWIN["swin_t"]),
    "semantic_sam_swinL": SemanticConfig("semantic_sam_swinL", SWIN["swin_l"]),
    "semantic-nano": SemanticConfig(
        "semantic-nano",
        NANO["nano"],
        image_size=384,
        stride=8,
        resizing="fit",
        largest_size=1280,
        is_local=True,
        pixel_decoder=PixelDecoderConfig(
            width=_NANO_WIDTH,
            layers=1,
            mlp_width=512,
            mask_width=_NANO_MASKS,
            groups=8,
            is_narrow=True,
            votes=_NANO_VOTES,
            deformable=_NANO_DEFORMABLE,
        ),
        query_decoder=QueryDecoderConfig(
            width=_NANO_WIDTH,
            layers=4,
            heads=4,
            mlp_width=512,
            mask_width=_NANO_MASKS,
            projection=96,
            sides=(8.0, 14.0, 24.0, 44.0, 80.0, 150.0),
            votes=_NANO_VOTES,
            spread=32,
            deformable=_NANO_DEFORMABLE,
        ),
        text=TextConfig(),
        vocabulary=_VOCABULARY,
    ),
}

_MOVED = (
    ("backbone.", "image_encoder."),
    ("sem_seg_head.pixel_decoder.", "pixel_decoder."),
    ("sem_seg_head.predictor._bbox_embed.", "query_decoder.bbox_embed."),
    ("sem_seg_head.predictor.bbox_embed.", None),
    ("sem_seg_head.predictor.decoder.bbox_embed.", None),
    ("sem_seg_head.predictor.decoder.norm.", None),
    ("sem_seg_head.predictor.", "query_decoder."),
    ("criterion.", None),
)
_COMPUTED = "relative_position_index"


def released_key(key: str) -> str | None:
    """Return our key for a key of a released checkpoint; None for what is stored twice, or not a part of the model."""
    key = key.removeprefix("model.")
    if key.endswith(_COMPUTED):
        return None
    for theirs, ours in _MOVED:
        if key.startswith(theirs):
            return None if ours is None else ours + key.removeprefix(theirs)
    return key


def build_semantic(config: str | SemanticConfig) -> SemanticSam:
    """Return a freshly initialised model of a row, by name or by its configuration."""
    return SemanticSam(SEMANTIC[config] if isinstance(config, str) else config)

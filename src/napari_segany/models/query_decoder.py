"""Semantic-SAM's query decoder: queries look around their boxes, move them, and become masks, boxes and scores.

Papers: Li et al. 2023, "Semantic-SAM" (section 3.1) and "Mask DINO" (section 3.2); Liu et al. 2022, "DAB-DETR" (boxes
as positions, refined layer by layer). A prompt becomes six queries, one for each level of granularity, that share its
box. Queries of one prompt see each other and nobody else's, unless asked otherwise.

The bundled model's decoder is of the same form and differs in how it tells places: boxes move in units of their own
size, each level begins with a box of its own size, and a mask is a dot product plus paraboloids over the query's box,
which tell apart what looks the same elsewhere. One of them is over the places of pixels, the others over where pixels
say that the middle of their object is (votes, after Lalit et al. 2021, "EmbedSeg"), so that touching cells come apart.
The six masks of a prompt then change by what lies around (`mask_spread`). It also looks for objects without prompts
(`seeds`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cells import nested
from .deformable import DeformableAttention, DeformableConfig, Sizes, join_levels
from .layers import Mlp
from .mask_spread import CELL_DEPTH, MaskSpread

TOKENS = 6
"""Queries of one prompt."""

_EPS = 1e-5  # of the inverse sigmoid
_UNIT = 512.0  # frame pixels that count as 1 in the narrow decoder's codes of places
_LARGEST_STEP = 4.0  # of the logarithm of a side
_PLACE_UNIT = 64.0  # cells of the mask features that count as 1 where places are squared
_LEAST_SIDE = 0.02  # of a box, in these units
_LARGEST_LOGIT = 15.0  # that places and votes can make; beyond, they count less and less


@dataclass(frozen=True, slots=True)
class QueryDecoderConfig:
    """Sizes of a query decoder; `projection` is the width of the space that states share with words.

    With `sides`, the sides in frame pixels of the boxes that a click's six queries begin with, the decoder is the
    bundled model's; then `votes` maps say where objects have their middle, and its `MaskSpread` has `spread` channels.
    """

    width: int = 256
    layers: int = 9
    heads: int = 8
    mlp_width: int = 2048
    mask_width: int = 256
    projection: int = 512
    sides: tuple[float, ...] = ()
    votes: int = 0
    spread: int = 0
    deformable: DeformableConfig = field(default_factory=DeformableConfig)

    @property
    def is_local(self) -> bool:
        """Whether places are told in units of a query's own box."""
        return bool(self.sides)


@dataclass(frozen=True, slots=True, eq=False)
class Queries:
    """What queries are before they look at an image: `content` (B, Q, C), `boxes` (B, Q, 4).

    Boxes are (x, y, w, h), centre and sides, as shares of the frame. `group` queries at a time see each other.
    """

    content: Tensor
    boxes: Tensor
    group: int

    def together(self) -> Queries:
        """Return the same queries, all of an image seeing each other."""
        return Queries(self.content, self.boxes, self.content.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class Looked:
    """Queries behind one layer: normed `states` (B, Q, C), and the (B, Q, 4) boxes around which they looked and around
    which they look next.
    """

    states: Tensor
    boxes: Tensor
    moved: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What queries found: `logits` (B, Q, H, W), predicted `ious` (B, Q), `boxes` (B, Q, 4), `states` (B, Q, C)."""

    logits: Tensor
    ious: Tensor
    boxes: Tensor
    states: Tensor


class QueryDecoderLayer(nn.Module):
    """Queries attend to each other, read the levels around their boxes, and pass an MLP; post-norm."""

    def __init__(self, config: QueryDecoderConfig) -> None:
        super().__init__()
        width = config.width
        self.cross_attn = DeformableAttention(width, config.deformable)
        self.norm1 = nn.LayerNorm(width)
        self.self_attn = nn.MultiheadAttention(width, config.heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, config.mlp_width)
        self.linear2 = nn.Linear(config.mlp_width, width)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, queries: Queries, code: Tensor, cells: Tensor, sizes: Sizes) -> Tensor:
        """Return the new (B, Q, C) content; `code` (B, Q, C) tells the places, `cells` (B, S, C) are the levels."""
        content = self.norm2(queries.content + self._mixed(queries.content, code, group=queries.group))
        content = self.norm1(content + self.cross_attn(content + code, queries.boxes, cells, sizes))
        return self.norm3(content + self.linear2(F.relu(self.linear1(content))))

    def _mixed(self, content: Tensor, code: Tensor, *, group: int) -> Tensor:
        """Return what queries learn of the others of their group."""
        apart, coded = (x.reshape(-1, group, x.shape[-1]) for x in (content, content + code))
        mixed, _ = self.self_attn(coded, coded, apart, need_weights=False)
        return mixed.reshape(content.shape)


class QueryStack(nn.Module):
    """The layers, and what tells a box's place; parameters are called as in the released checkpoints."""

    def __init__(self, config: QueryDecoderConfig) -> None:
        super().__init__()
        width = config.width
        self.layers = nn.ModuleList(QueryDecoderLayer(config) for _ in range(config.layers))
        self.ref_point_head = Mlp((2 * width, width, width))


class QueryDecoder(nn.Module):
    """Prompts, or nothing but the image, to masks, boxes and scores."""

    def __init__(self, config: QueryDecoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.decoder = QueryStack(config)
        self.decoder_norm = nn.LayerNorm(width)
        self.bbox_embed = Mlp((width, width, width, 4))
        self.mask_embed = Mlp((width, width, width, config.mask_width))
        self.iou_prediction_head = Mlp((width, width, width, 1))
        self.label_enc = nn.Embedding(2, width)
        self.pb_embedding = nn.Embedding(2, width)
        self.mask_tokens = nn.Embedding(TOKENS, width)
        self.class_embed = nn.Parameter(torch.empty(width, config.projection))
        self.class_embed_part = nn.Parameter(torch.empty(width, config.projection))
        for projection in (self.class_embed, self.class_embed_part):
            nn.init.normal_(projection, std=width**-0.5)
        for parameter in _last(self.bbox_embed).parameters():
            nn.init.zeros_(parameter)
        if config.is_local:
            self.seeds = Mlp((width, width, 6))
            self.seed_tokens = nn.Embedding(2, width)
            self.place_embed = Mlp((width, width, 1 + 4 * (1 + config.votes)))
            seen = config.mask_width + 2 * config.votes
            self.spread = MaskSpread(masks=TOKENS, told=width, seen=seen, inner=config.spread, is_asked=True)
            self._begin_local()
        else:
            self.lang_mapper = nn.Parameter(torch.zeros(config.projection, width))

    @torch.no_grad()
    def _begin_local(self) -> None:
        """Begin with masks that fill their box as an ellipse, and with hardly any seeds."""
        place = _last(self.place_embed)
        nn.init.normal_(place.weight, std=0.01)
        place.bias.zero_()
        place.bias[0] = 1.0
        place.bias[1:5] = torch.tensor([0.5, 0.5, 0.0, 0.0])
        place.bias[5:].view(-1, 4)[:, :2] = -1.5  # votes mean nothing yet
        seeds = _last(self.seeds)
        nn.init.normal_(seeds.weight, std=0.01)
        seeds.bias.copy_(torch.tensor([-4.0, 1.0, 1.0, -4.0, 1.0, 1.0]))
        nn.init.normal_(_last(self.mask_embed).weight, std=0.02)

    def of_prompts(self, boxes: Tensor, is_box: Tensor, *, frame: tuple[int, int]) -> Queries:
        """Return the queries of N prompts on each of B images, six for each.

        Parameters
        ----------
        boxes : (B, N, 4)
            As shares of the frame; of a click, its place and whatever size stands for none.
        is_box : (B, N)
            Whether a prompt is a box.
        frame
            (H, W) of the frame, in pixels.
        """
        kind = is_box.long() if self.config.is_local else torch.zeros_like(is_box, dtype=torch.long)
        content = self.label_enc.weight[0] + self.pb_embedding(kind)  # the released models never learnt boxes
        content = content[:, :, None] + self.mask_tokens.weight  # (B, N, 6, C)
        own = boxes[:, :, None].expand(-1, -1, TOKENS, -1)
        if self.config.is_local:
            sides = boxes.new_tensor(self.config.sides)[:, None] / boxes.new_tensor((frame[1], frame[0]))
            begun = torch.cat((own[..., :2], sides.expand(*own.shape[:2], -1, -1)), dim=-1)
            own = torch.where(is_box[:, :, None, None], own, begun)
        return Queries(content.flatten(1, 2), own.flatten(1, 2), TOKENS)

    def seed_maps(self, finest: Tensor) -> Tensor:
        """Return (B, 2, 3, h, w) maps of a (B, C, h, w) level: of objects and of parts, where their hearts are (a
        logit), and the logarithms of their width and height in cells.
        """
        maps: Tensor = self.seeds(finest.permute(0, 2, 3, 1))
        return maps.permute(0, 3, 1, 2).unflatten(1, (2, 3))

    def of_seeds(self, boxes: Tensor, is_part: Tensor) -> Queries:
        """Return a query for each of (B, Q, 4) boxes that `seed_maps` tells of; all of an image see each other."""
        content = self.label_enc.weight[1] + self.seed_tokens(is_part.long())
        return Queries(content, boxes, boxes.shape[1])

    def look(self, queries: Queries, levels: list[Tensor], *, frame: tuple[int, int]) -> list[Looked]:
        """Return the queries behind each layer, with `levels` (B, C, h, w), finest first."""
        cells, sizes = join_levels(levels[::-1])
        boxes, seen = queries.boxes, []
        for layer in self.decoder.layers:
            code = self.decoder.ref_point_head(self._code(boxes, frame).to(queries.content.dtype))
            content = layer(Queries(queries.content, boxes, queries.group), code, cells, sizes)
            moved = self._moved(boxes, self.bbox_embed(content))
            seen.append(Looked(self.decoder_norm(content), boxes, moved))
            boxes = moved.detach()
            queries = Queries(content, boxes, queries.group)
        return seen

    def _code(self, boxes: Tensor, frame: tuple[int, int]) -> Tensor:
        """Return the (B, Q, 2 C) sine code of boxes: y, x, w, h."""
        if self.config.is_local:
            boxes = boxes * boxes.new_tensor((frame[1], frame[0]) * 2) / _UNIT
        count = self.config.width // 2
        index = torch.arange(count, dtype=torch.float32, device=boxes.device)
        frequency = 2 * math.pi / 10000.0 ** (2 * torch.div(index, 2, rounding_mode="floor") / count)
        angle = boxes[..., [1, 0, 2, 3], None].float() * frequency  # (B, Q, 4, C / 2)
        return torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=-1).flatten(2)

    def _moved(self, boxes: Tensor, step: Tensor) -> Tensor:
        """Return boxes after a step: in the space of their inverse sigmoids, or in units of their own sides."""
        step = step.float()
        if not self.config.is_local:
            kept = boxes.clamp(0, 1)
            inverse = torch.log(kept.clamp(min=_EPS) / (1 - kept).clamp(min=_EPS))
            return torch.sigmoid(step + inverse)
        centre, sides = boxes[..., :2], boxes[..., 2:]
        grown = sides * step[..., 2:].clamp(-_LARGEST_STEP, _LARGEST_STEP).exp()
        return torch.cat((centre + step[..., :2] * sides, grown.clamp(1e-4, 4.0)), dim=-1)

    def votes_of(self, mask_features: Tensor) -> Tensor:
        """Return (B, V, 2, H, W) places (x, y), as shares of the frame, that pixels say their objects' middles are."""
        places = _places(mask_features[:, self.config.mask_width :])[:, 1:]
        sides = places.new_tensor((places.shape[4], places.shape[3])) / _PLACE_UNIT
        return places / sides[:, None, None]

    def scores(self, looked: Looked) -> Tensor:
        """Return the (B, Q) IoUs that `answer` would predict, without drawing anything."""
        ious: Tensor = self.iou_prediction_head(self.decoder_norm(looked.states))[..., 0]
        return ious

    def answer(self, looked: Looked, mask_features: Tensor, asked: Tensor | None = None) -> Answers:
        """Return what the queries of a layer found.

        Parameters
        ----------
        mask_features : (B, C', H, W)
        asked : (B, N, 2)
            Where the prompts are whose sixes the queries are, (x, y) as shares of the frame: then the bundled model's
            masks are changed by what lies around.
        """
        states = self.decoder_norm(looked.states)  # normed twice, as released
        boxes = self._moved(looked.boxes, self.bbox_embed(states))
        embedded = self.mask_embed(states)
        if not self.config.is_local:
            logits = torch.einsum("bqc,bchw->bqhw", embedded, mask_features)
            return Answers(logits, self.iou_prediction_head(states)[..., 0], boxes, states)
        seen, votes = mask_features.split([self.config.mask_width, 2 * self.config.votes], dim=1)
        places = _places(votes)  # (B, 1 + votes, 2, H, W)
        weights, constant = _paraboloids(self.place_embed(states).float(), boxes.detach(), mask_features)
        maps = torch.cat((seen.float(), places.flatten(1, 2), places.flatten(1, 2).square()), dim=1)
        logits = torch.einsum("bqc,bchw->bqhw", torch.cat((embedded.float(), weights), dim=-1), maps)
        logits = _LARGEST_LOGIT * torch.tanh((logits + constant[..., None, None]) / _LARGEST_LOGIT)
        if asked is not None:
            logits = self.spread(logits, states, nested(mask_features, CELL_DEPTH), asked)
        return Answers(logits, self.iou_prediction_head(states)[..., 0], boxes, states)


def _last(mlp: Mlp) -> nn.Linear:
    """Return an MLP's last layer."""
    layer = mlp.layers[-1]
    assert isinstance(layer, nn.Linear)
    return layer


def _places(votes: Tensor) -> Tensor:
    """Return (B, 1 + V, 2, H, W) places (x, y): of the pixels themselves, and those that (B, 2 V, H, W) votes say."""
    height, width = votes.shape[2:]
    y, x = (
        (torch.arange(side, dtype=torch.float32, device=votes.device) + 0.5) / _PLACE_UNIT
        for side in (height, width)
    )
    own = torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)))
    said = own + votes.float().unflatten(1, (-1, 2))
    return torch.cat((own.expand(len(votes), 1, -1, -1, -1), said), dim=1)


def _paraboloids(coefficients: Tensor, boxes: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B, Q, 4 (1 + V)) weights of places and of their squares, and (B, Q) constants.

    Together they are the sum of c0 - softplus(a) u² - softplus(b) v² + d u + e v over all places, with (u, v) in half
    sides from the centre of a query's box.

    Parameters
    ----------
    coefficients : (B, Q, 1 + 4 (1 + V))
        c0, then a, b, d, e for each.
    boxes : (B, Q, 4)
        As shares of the maps' size.
    """
    units = boxes.new_tensor((maps.shape[3], maps.shape[2])) / _PLACE_UNIT
    centre = (boxes[..., :2] * units)[:, :, None]  # (B, Q, 1, 2)
    half = (boxes[..., 2:] * units).clamp(min=_LEAST_SIDE)[:, :, None] / 2
    bent, slope = coefficients[..., 1:].unflatten(-1, (-1, 2, 2)).unbind(-2)  # (B, Q, 1 + V, 2)
    square = -F.softplus(bent - 0.5) / half**2
    slope = slope / half
    weights = torch.cat(((slope - 2 * square * centre).flatten(2), square.flatten(2)), dim=-1)
    constant = coefficients[..., 0] + (square * centre**2 - slope * centre).sum((-2, -1))
    return weights, constant


def seed_boxes(maps: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (B, Q, 4) boxes and (B, Q) is-part of flat cells (B, Q) of (B, 2, 3, h, w) maps."""
    height, width = maps.shape[3:]
    cell = chosen % (height * width)
    centre = torch.stack(((cell % width + 0.5) / width, (cell // width + 0.5) / height), dim=-1)
    logs = (
        maps[:, :, 1:].transpose(1, 2).flatten(2).gather(2, chosen[:, None].expand(-1, 2, -1)).transpose(1, 2)
    )
    sides = logs.clamp(-1, 6).exp() / maps.new_tensor((width, height))
    return torch.cat((centre, sides.clamp(max=2)), dim=-1), chosen >= height * width

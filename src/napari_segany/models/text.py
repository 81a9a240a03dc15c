"""Words: a text encoder and the scores of masks for class names, objects and parts apart.

Papers: Li et al. 2023, "Semantic-SAM" (section 3.2: decoupled object and part classification); Radford et al. 2021,
"CLIP" (section 2.4: a causal transformer, the last token stands for the text). The released checkpoints carry no
trained text encoder. The bundled model's reads bytes, so it needs no vocabulary, and is as small as its task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Mlp, attend

_PADDING, _END = 256, 257
_TOKENS = 258


@dataclass(frozen=True, slots=True)
class TextConfig:
    """Sizes of a text encoder; texts are cut to `context` - 1 bytes of UTF-8."""

    width: int = 96
    layers: int = 2
    heads: int = 4
    context: int = 32


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The class names that a model was taught: of objects, and of parts of objects."""

    objects: tuple[str, ...]
    parts: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys((*self.objects, *self.parts)))


class TextBlock(nn.Module):
    """Causal self-attention and an MLP; pre-norm."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp((width, 4 * width, width), activation=F.gelu)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, C) to the same shape; a token sees those before it."""
        count, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(count, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True) if length > 1 else attend(q, k, v)
        x = x + self.proj(mixed.transpose(1, 2).reshape(count, length, width))
        return x + self.mlp(self.norm2(x))


class TextEncoder(nn.Module):
    """Class names to vectors of length 1."""

    def __init__(self, config: TextConfig, projection: int) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(_TOKENS, config.width)
        self.places = nn.Parameter(torch.zeros(config.context, config.width))
        self.blocks = nn.Sequential(*(TextBlock(config) for _ in range(config.layers)))
        self.norm = nn.LayerNorm(config.width)
        self.projection = nn.Linear(config.width, projection, bias=False)
        nn.init.normal_(self.tokens.weight, std=0.3)
        nn.init.normal_(self.places, std=0.1)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Return the (N, P) vectors of N texts; upper and lower case are one."""
        device = self.places.device
        rows = [text.strip().lower().encode()[: self.config.context - 1] for text in texts]
        longest = max(len(row) for row in rows) + 1
        tokens = torch.tensor(
            [[*row, _END, *[_PADDING] * (longest - 1 - len(row))] for row in rows], device=device
        )
        ends = torch.tensor([len(row) for row in rows], device=device)
        x = self.norm(self.blocks(self.tokens(tokens) + self.places[:longest]))
        return F.normalize(self.projection(x[torch.arange(len(rows), device=device), ends]), dim=-1)


class WordScores(nn.Module):
    """How well states fit class names: as an object, and as a part of one; each with a vector for "none of them"."""

    def __init__(self, projection: int) -> None:
        super().__init__()
        self.none = nn.Parameter(torch.empty(2, projection))
        self.log_scale = nn.Parameter(torch.tensor(2.5))
        nn.init.normal_(self.none)

    def forward(
        self, states: Tensor, words: Tensor, *, embeds: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return (..., K + 1) logits of (..., C) states as objects and as parts, the last for none of K words.

        `words` (K, P) are those of `TextEncoder`; `embeds` the (C, P) projections of objects and parts.
        """
        scale = self.log_scale.exp().clamp(max=100.0)
        answers = []
        for kind, embed in enumerate(embeds):
            known = torch.cat((words, F.normalize(self.none[kind : kind + 1], dim=-1)))
            answers.append(scale * F.normalize(states @ embed, dim=-1) @ known.T)
        return answers[0], answers[1]

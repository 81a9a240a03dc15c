"""The two-way transformer of mask decoders: tokens attend to the image and the image to tokens.

Paper: Kirillov et al. 2023, appendix A ("Lightweight mask decoder"). There, what a prompt says reaches the image
through a few tokens alone; `Spread`, the bundled models' addition, also hands it on from place to place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Attention, DilatedSteps, Mlp


@dataclass(frozen=True, slots=True, eq=False)
class FirstLook:
    """What the first block makes of one image before it knows of any prompt: (1, heads, hw, d) each, made once."""

    keys: Tensor
    values: Tensor
    queries: Tensor

    def to(self, device: torch.device | str, dtype: torch.dtype) -> FirstLook:
        """Return it on a device, in a number format."""
        return FirstLook(*(x.to(device, dtype) for x in (self.keys, self.values, self.queries)))

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return self.keys.nbytes + self.values.nbytes + self.queries.nbytes


class TwoWayBlock(nn.Module):
    """Tokens attend to themselves, then to the image; then the image attends to the tokens. Post-norm."""

    def __init__(self, width: int, *, heads: int, mlp_width: int, is_first: bool) -> None:
        super().__init__()
        self.is_first = is_first
        self.self_attn = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = Attention(width, heads, downsample=2)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp((width, mlp_width, width))
        self.norm3 = nn.LayerNorm(width)
        self.norm4 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = Attention(width, heads, downsample=2)

    def first_look(self, image: Tensor, image_code: Tensor) -> FirstLook:
        """Return what does not depend on tokens, of a (1, hw, C) image."""
        reading, writing, coded = (
            self.cross_attn_token_to_image,
            self.cross_attn_image_to_token,
            image + image_code,
        )
        return FirstLook(
            reading.split(reading.k_proj(coded)),
            reading.split(reading.v_proj(image)),
            writing.split(writing.q_proj(coded)),
        )

    def forward(
        self,
        tokens: Tensor,
        image: Tensor,
        *,
        token_code: Tensor,
        image_code: Tensor,
        look: FirstLook | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Update (B, N, C) tokens and (B or 1, hw, C) image; codes are added to queries and keys, never to values.

        One image serves all B prompts until the first block has written the prompts into it; its `first_look`, if at
        hand, saves the first block half of the work.
        """
        if self.is_first:  # the tokens are their own code here: no code, no residual
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            coded = tokens + token_code
            tokens = tokens + self.self_attn(coded, coded, tokens)
        tokens = self.norm1(tokens)
        coded_image = image + image_code if look is None else image
        looking, coded_tokens = self.cross_attn_token_to_image, tokens + token_code
        if look is None:
            tokens = self.norm2(tokens + _look(looking, coded_tokens, coded_image, image))
        else:
            tokens = self.norm2(tokens + looking.read_ready(coded_tokens, look.keys, look.values))
        tokens = self.norm3(tokens + self.mlp(tokens))
        keys, values = tokens + token_code, tokens
        attention = self.cross_attn_image_to_token
        if look is not None:
            return tokens, self.norm4(attention.write_ready(image, look.queries, keys, values))
        if attention.is_absorbable(keys.shape[1]):
            return tokens, self.norm4(attention.write(image, coded_image, keys, values))
        return tokens, self.norm4(image + attention(coded_image, keys, values))


def _look(attention: Attention, tokens: Tensor, coded_image: Tensor, image: Tensor) -> Tensor:
    """Attend from (B, N, C) tokens to a (B or 1, L, C) image, the cheaper way."""
    if attention.is_absorbable(tokens.shape[1]):
        return attention.read(tokens, coded_image, image)
    looked: Tensor = attention(tokens, coded_image, image)
    return looked


class Spread(nn.Module):
    """Hands on what each place of an image knows to places further and further away, in a few channels.

    A click on one fibre among twenty, or inside a closed outline, is followed from cell to cell; tokens would have to
    describe the whole way. It begins as if it were not there.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.narrow = nn.Linear(width, inner)
        self.steps = DilatedSteps(inner)
        self.widen = nn.Linear(inner, width)
        nn.init.zeros_(self.widen.weight)
        nn.init.zeros_(self.widen.bias)

    def forward(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Map a (B, hw, C) image of `size` (h, w) to the same shape."""
        x = self.steps(self.narrow(image).transpose(1, 2).unflatten(2, size))  # (B, c, h, w), channels last
        told: Tensor = self.widen(F.gelu(x).flatten(2).transpose(1, 2))
        return told.add_(image)


class TwoWayTransformer(nn.Module):
    """A stack of two-way blocks and one last look of the tokens at the image.

    With `spread` channels, each block is followed by a `Spread`.
    """

    def __init__(self, width: int, *, depth: int, heads: int, mlp_width: int, spread: int = 0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayBlock(width, heads=heads, mlp_width=mlp_width, is_first=i == 0) for i in range(depth)
        )
        self.spreads = nn.ModuleList(Spread(width, spread) for _ in range(depth if spread else 0))
        self.final_attn_token_to_image = Attention(width, heads, downsample=2)
        self.norm_final_attn = nn.LayerNorm(width)

    def first_look(self, image: Tensor, image_code: Tensor) -> FirstLook:
        """Return the first block's look at a (1, C, h, w) image with its (1, C, h, w) code."""
        block = self.layers[0]
        assert isinstance(block, TwoWayBlock)
        return block.first_look(*(x.flatten(2).transpose(1, 2) for x in (image, image_code)))

    def forward(
        self,
        image: Tensor,
        tokens: Tensor,
        *,
        own: int,
        image_code: Tensor,
        look: FirstLook | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Turn (B or 1, C, h, w) image, (B, N, C) tokens into (B, own, C) tokens, (B, hw, C) image.

        Of the tokens, the first `own` are answers; those of the prompts behind them need no last look. `look` is the
        first block's at this very image.
        """
        size = (image.shape[2], image.shape[3])
        image = image.flatten(2).transpose(1, 2)  # (B, hw, C)
        image_code = image_code.flatten(2).transpose(1, 2)  # (1, hw, C)
        token_code = tokens
        for index, layer in enumerate(self.layers):
            tokens, image = layer(tokens, image, token_code=token_code, image_code=image_code, look=look)
            look = None
            if self.spreads:
                image = self.spreads[index](image, size)
        tokens, token_code = tokens[:, :own], token_code[:, :own]
        last = _look(self.final_attn_token_to_image, tokens + token_code, image + image_code, image)
        return self.norm_final_attn(tokens + last), image

"""What masks show, in words: class names given as text, told apart by models that were taught some."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_segany.core.errors import CapabilityError, PromptError
from napari_segany.models.mask_decoder import MaskOutput
from napari_segany.models.semantic_sam import SemanticSam

from .loading import Model

LEAST_CHANCE = 0.15
"""Names that fit less well than this are not given."""


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """Class names, their (K, P) vectors, and (2, K) whether each may name an object, and a part of one.

    A model is asked for words only as what it was taught they are: a lumen is a part and never an object.
    """

    classes: tuple[str, ...]
    vectors: Tensor
    fits: Tensor

    @torch.inference_mode()
    def chances(self, network: SemanticSam, states: Tensor) -> Tensor:
        """Return the (2, ..., K) chance, 0 to 1, that (..., C) states are an object, or a part, of each name."""
        answers = network.word_logits(states, self.vectors.to(states.device))
        never = ~F.pad(self.fits, (0, 1), value=True).to(states.device)  # the last is for none of the words
        logits = [each.float().masked_fill(no, -torch.inf) for each, no in zip(answers, never, strict=True)]
        return torch.stack([each.softmax(dim=-1)[..., :-1] for each in logits])

    def names(self, network: SemanticSam, output: MaskOutput) -> tuple[str, ...]:
        """Return the name of each of the M masks of one prompt, "" where none fits."""
        return self.best(self.chances(network, output.tokens[0]).amax(dim=0))

    def best(self, chances: Tensor) -> tuple[str, ...]:
        """Return the best of K names for each row of (N, K) chances, "" where none fits."""
        best = chances.max(dim=-1)
        return tuple(
            self.classes[index] if chance >= LEAST_CHANCE else ""
            for index, chance in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        )


@torch.inference_mode()
def words_of(model: Model, classes: Sequence[str] | None) -> Words | None:
    """Return class names as a model understands them: its own where None, and None where there are none.

    Raises
    ------
    CapabilityError
        If names are given to a model that knows no words.
    PromptError
        If a name is empty or given twice.
    """
    network = model.network
    if not isinstance(network, SemanticSam) or not network.config.has_words:
        if classes:
            raise without_words(model.card.name)
        return None
    known = network.config.vocabulary.words
    given = known if classes is None else tuple(name.strip() for name in classes)
    if not given:
        return None
    if "" in given or len({name.lower() for name in given}) < len(given):
        raise PromptError(f"class names must be different and not empty, got {', '.join(map(repr, given))}")
    unknown = [name for name in given if name.lower() not in known]
    if unknown:
        warnings.warn(
            f"{model.card.name} was never taught {', '.join(map(repr, unknown))}: it goes by the letters alone. It was "
            f"taught {', '.join(known)}.",
            RuntimeWarning,
            stacklevel=3,
        )
    vocabulary = network.config.vocabulary
    fits = [
        [name.lower() in words or name.lower() not in known for name in given]
        for words in (vocabulary.objects, vocabulary.parts)
    ]
    return Words(given, network.text_encoder(given), torch.tensor(fits))


def without_words(name: str) -> CapabilityError:
    """Return the error for a model that knows no words."""
    if name.startswith("semantic_sam"):
        return CapabilityError(
            f"{name} knows no words: its authors released no text encoder, and class scores without one would be "
            "noise; take its masks without names, or use 'semantic-nano'"
        )
    return CapabilityError(f"{name} knows no words; 'semantic-nano' names what it finds")

"""Names: given as text, and asked of a model only as what it was taught they are."""

from __future__ import annotations

import pytest
import torch
from semantic_rows import semantic_model

from napari_segany.core.errors import PromptError
from napari_segany.models.semantic_sam import SemanticSam
from napari_segany.predict.words import LEAST_CHANCE, words_of


def network() -> SemanticSam:
    found = semantic_model().network
    assert isinstance(found, SemanticSam)
    return found


def states(count: int = 40) -> torch.Tensor:
    width = network().config.query_decoder.width
    return 3 * torch.randn(count, width, generator=torch.Generator().manual_seed(3))


def test_a_word_is_asked_for_only_as_what_it_was_taught_to_be() -> None:
    words = words_of(semantic_model(), None)
    assert words is not None
    vocabulary = network().config.vocabulary
    chances = words.chances(network(), states())
    assert chances.shape == (2, 40, len(vocabulary.words))
    for kind, known in enumerate((vocabulary.objects, vocabulary.parts)):
        is_known = torch.tensor([name in known for name in words.classes])
        assert (chances[kind][:, ~is_known] == 0).all()
        assert (chances[kind][:, is_known] > 0).all()
        assert (chances[kind].sum(-1) < 1).all()  # the rest is for none of them
    lumen = words.classes.index("lumen")
    assert "lumen" not in vocabulary.objects
    assert chances[0, :, lumen].max() == 0.0


def test_chances_are_those_of_training() -> None:
    """The vocabulary's own words, one head at a time, as the loss sees them."""
    words = words_of(semantic_model(), None)
    assert words is not None
    vocabulary = network().config.vocabulary
    chances = words.chances(network(), states())
    for kind, known in enumerate((vocabulary.objects, vocabulary.parts)):
        alone = network().word_logits(states(), network().text_encoder(known))[kind].softmax(-1)
        places = [words.classes.index(name) for name in known]
        torch.testing.assert_close(chances[kind][:, places], alone[:, :-1])


def test_words_that_were_never_taught_may_be_anything() -> None:
    with pytest.warns(RuntimeWarning, match="'axoneme'"):
        words = words_of(semantic_model(), ["axoneme", "Lumen"])
    assert words is not None
    chances = words.chances(network(), states())
    assert (chances[:, :, 0] > 0).all()
    assert (chances[0, :, 1] == 0).all()


def test_where_nothing_fits_there_is_no_name() -> None:
    words = words_of(semantic_model(), ["nucleus", "cell"])
    assert words is not None
    least = LEAST_CHANCE
    assert words.best(torch.tensor([[0.1, 0.0], [least, 0.0], [0.2, 0.7]])) == ("", "nucleus", "cell")


def test_names_that_cannot_be() -> None:
    assert words_of(semantic_model(), []) is None
    for names in (["cell", "Cell"], ["cell", " "]):
        with pytest.raises(PromptError, match="different and not empty"):
            words_of(semantic_model(), names)

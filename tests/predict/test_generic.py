"""Objects without prompts, by their hearts or by a grid of clicks, and what is put together from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from semantic_rows import semantic_model

from napari_segany.core.errors import CapabilityError, SettingsError
from napari_segany.core.masks import box_of
from napari_segany.core.types import ScoredMask
from napari_segany.models.semantic_sam import SemanticSam
from napari_segany.predict.everything import EverythingSegmenter, EverythingSettings
from napari_segany.predict.found import (
    LEAST_SEEN,
    class_map,
    panoptic_of_masks,
    parts_of_masks,
)
from napari_segany.predict.generic import GenericSegmenter, GenericSettings
from napari_segany.predict.image import ImagePredictor

IMAGE = np.random.default_rng(1).random((80, 112)).astype(np.float32)
EASY = GenericSettings(least_heart=0.0, most=20, least_score=0.0, overlap=1.0)


def found(
    rows: tuple[int, int], cols: tuple[int, int], *, score: float = 0.9, name: str = "", is_part: bool = False
) -> ScoredMask:
    mask = np.zeros((40, 50), dtype=bool)
    mask[slice(*rows), slice(*cols)] = True
    return ScoredMask(mask, box_of(mask), score, 1.0, 4, name, is_part)


CELL = found((5, 35), (5, 35), score=0.8, name="cell")
NUCLEUS = found((15, 25), (15, 25), score=0.9, name="nucleus", is_part=True)
OTHER = found((0, 12), (30, 50), score=0.7, name="cell")


def test_a_model_finds_named_objects_and_parts_by_their_hearts() -> None:
    segmenter = GenericSegmenter(semantic_model(), settings=EASY)
    masks = segmenter.masks(IMAGE)
    assert 1 <= len(masks) <= 20
    assert [m.score for m in masks] == sorted((m.score for m in masks), reverse=True)
    words = ImagePredictor(semantic_model()).classes
    for each in masks:
        assert each.mask.shape == IMAGE.shape
        assert each.mask.any()
        assert each.box == box_of(each.mask)
        assert each.name in ("", *words)
    labels = segmenter.labels(IMAGE)
    assert labels.dtype == np.uint32
    assert set(np.unique(labels)) == set(range(int(labels.max()) + 1)) | {0}


def test_hearts_are_peaks_of_their_map() -> None:
    model = semantic_model()
    features = ImagePredictor(model).embed(IMAGE)
    network = model.network
    assert isinstance(network, SemanticSam)
    with torch.inference_mode():
        some = network.found(features.tensors, least=0.0, most=1000)
        maps = network.query_decoder.seed_maps(network.levels_of(features.tensors)[0])
        assert network.found(features.tensors, least=1.1, most=5) is None
    assert some is not None
    chances = maps[0, :, 0].sigmoid()
    for box, is_part in zip(some.boxes, some.is_part, strict=True):
        assert torch.isfinite(box).all()
        assert is_part in (True, False)
    assert len(some.boxes) < chances.numel()


def test_models_without_hearts_say_what_to_use() -> None:
    with pytest.raises(CapabilityError, match="EverythingSegmenter"):
        GenericSegmenter(semantic_model("semantic_sam_swinT"))


def test_everything_keeps_what_passes_at_the_levels_asked_for() -> None:
    easy = EverythingSettings(
        points_per_side=3, least_score=0.0, least_stability=0.0, overlap=0.9, least_area=0
    )
    everything = EverythingSegmenter(semantic_model(), levels=(2, 5), settings=easy).masks(IMAGE)
    assert everything
    assert {each.level for each in everything} <= {2, 5}
    assert [m.score for m in everything] == sorted((m.score for m in everything), reverse=True)
    strict = EverythingSettings(points_per_side=3, least_score=1.0)
    assert EverythingSegmenter(semantic_model(), settings=strict).masks(IMAGE) == []


def test_a_better_double_stays() -> None:
    easy = EverythingSettings(
        points_per_side=3, least_score=0.0, least_stability=0.0, overlap=0.3, least_area=0
    )
    kept = EverythingSegmenter(semantic_model(), settings=easy).masks(IMAGE)
    for index, one in enumerate(kept):
        for two in kept[:index]:
            low = np.maximum((one.box.row0, one.box.col0), (two.box.row0, two.box.col0))
            high = np.minimum((one.box.row1, one.box.col1), (two.box.row1, two.box.col1))
            both = np.prod(np.clip(high - low, 0, None))
            areas = one.box.height * one.box.width + two.box.height * two.box.width
            assert both / (areas - both) <= 0.3 + 1e-6


@pytest.mark.parametrize(
    ("field", "value"), [("least_score", 1.5), ("points_per_side", 0), ("least_area", -1)]
)
def test_settings_check_themselves(field: str, value: float) -> None:
    with pytest.raises(SettingsError, match=field):
        EverythingSettings(**{field: value})  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(SettingsError):
        GenericSettings(least_heart=-0.1)
    with pytest.raises(SettingsError, match="7"):
        EverythingSegmenter(semantic_model(), levels=(3, 7))


def test_a_pixel_belongs_to_the_best_and_names_go_along() -> None:
    panoptic = panoptic_of_masks([OTHER, CELL, NUCLEUS], (40, 50))
    assert panoptic.names == {1: "nucleus", 2: "cell", 3: "cell"}
    assert panoptic.labels[20, 20] == 1
    assert panoptic.labels[6, 6] == 2
    assert panoptic.labels[6, 32] == 2
    assert panoptic.labels[0, 40] == 3


def test_what_is_mostly_hidden_is_left_out() -> None:
    hidden = found((6, 16), (6, 16), score=0.1)
    assert panoptic_of_masks([CELL, hidden], (40, 50)).labels.max() == 1


def test_a_part_hides_its_whole_in_a_map_of_classes() -> None:
    shown = class_map([CELL, NUCLEUS, found((36, 39), (0, 9))], (40, 50), classes=("nucleus", "cell"))
    assert shown.index[20, 20] == 1
    assert shown.index[6, 6] == 2
    assert shown.index[37, 3] == 0


def test_parts_know_the_smallest_object_that_holds_them() -> None:
    colony = found((0, 40), (0, 50), name="colony")
    lost = found((38, 40), (40, 50), is_part=True)
    objects, parts = parts_of_masks([colony, CELL, NUCLEUS, lost])
    assert objects == [colony, CELL]
    assert [(part.found, part.of) for part in parts] == [(NUCLEUS, 1), (lost, 0)]
    assert parts_of_masks([NUCLEUS])[1][0].of == -1


@given(
    boxes=st.lists(
        st.tuples(
            st.integers(0, 30), st.integers(1, 12), st.integers(0, 30), st.integers(1, 12), st.floats(0, 1)
        ),
        max_size=8,
    )
)
@settings(deadline=None, max_examples=40)
def test_labels_never_overlap_and_keep_at_least_half(boxes: list[tuple[int, int, int, int, float]]) -> None:
    masks = [found((r, r + h), (c, c + w), score=score) for r, h, c, w, score in boxes]
    labels = panoptic_of_masks(masks, (40, 50)).labels
    assert labels.max() <= len(masks)
    union = np.any([m.mask for m in masks], axis=0) if masks else np.zeros((40, 50), dtype=bool)
    assert not labels[~union].any()
    for number in range(1, int(labels.max()) + 1):
        own = labels == number
        assert any(not (own & ~m.mask).any() and own.sum() >= LEAST_SEEN * m.mask.sum() for m in masks)

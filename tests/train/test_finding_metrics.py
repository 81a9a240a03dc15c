"""Objects found without prompts: counted by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from napari_segany.core.errors import DataError
from napari_segany.core.types import Labels
from napari_segany.train.dataset import Annotated, annotate
from napari_segany.train.finding_metrics import THRESHOLDS, evaluate_finding, label_ious


def image(labels: Labels, name: str = "x", modality: str = "em") -> Annotated:
    return annotate(name, labels.astype(np.uint8), labels, modality=modality)


def squares(*sides: int) -> Labels:
    labels = np.zeros((24, 24 * len(sides)), dtype=np.uint32)
    for place, side in enumerate(sides):
        labels[:side, 24 * place : 24 * place + side] = 3 * place + 5  # ids need not be 1, 2, …
    return labels


def test_all_found_is_one() -> None:
    result = evaluate_finding(lambda item: item.labels, [image(squares(10, 20))], model="m").as_dict()
    assert (result["msa"], result["ap50"], result["ap75"]) == (1.0, 1.0, 1.0)
    assert (result["images"], result["objects"], result["found"]) == (1, 2, 2)


def test_one_right_one_rough_one_missed_one_invented() -> None:
    truth = squares(20, 20, 20, 0)
    guess = squares(20, 16, 0, 20)  # IoU 1, 0.64, none, and one that is not there
    result = evaluate_finding(lambda _: guess, [image(truth)], model="m").as_dict()
    assert result["ap50"] == pytest.approx(2 / 4)
    assert result["ap75"] == pytest.approx(1 / 5)
    low = sum(t <= 0.64 for t in THRESHOLDS)
    assert result["msa"] == pytest.approx((low * 2 / 4 + (10 - low) / 5) / 10, abs=1e-4)


def test_images_count_alike_and_by_modality() -> None:
    items = [image(squares(20), "a", "em"), image(squares(20, 20, 20), "b", "phase"), image(squares(0), "c")]
    result = evaluate_finding(
        lambda item: item.labels if item.name != "b" else np.zeros_like(item.labels), items, model="m"
    )
    summary = json.loads(json.dumps(result.as_dict()))
    assert summary["ap50"] == pytest.approx(2 / 3, abs=1e-4)  # nothing in "c", and nothing found there
    assert {m: v["ap50"] for m, v in summary["by_modality"].items()} == {"em": 1.0, "phase": 0.0}


def test_ious_of_labels() -> None:
    a = np.array([[7, 7, 0], [0, 9, 9]], dtype=np.uint32)
    b = np.array([[4, 4, 4], [0, 0, 2]], dtype=np.uint32)
    np.testing.assert_allclose(label_ious(a, b), [[0, 2 / 3], [1 / 2, 0]])
    assert label_ious(np.zeros_like(a), b).shape == (0, 2)


def test_nothing_to_look_at() -> None:
    with pytest.raises(DataError, match="no image"):
        evaluate_finding(lambda item: item.labels, [], model="m")

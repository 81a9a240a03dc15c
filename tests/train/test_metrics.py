"""The evaluation protocol, run by predictors whose answers are known beforehand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from annotated_images import disc_image, disc_labels, write_pair

from napari_segany.core.errors import DataError
from napari_segany.core.intensity import Window
from napari_segany.core.masks import box_of
from napari_segany.core.types import AnyArray, Box, FeaturesLike, MaskPrediction, ModelCard, Prompt
from napari_segany.train import metrics, results
from napari_segany.train.clicks import deepest_point
from napari_segany.train.dataset import Annotated, annotate, is_validation
from napari_segany.train.metrics import boundary_iou, evaluate, evaluate_folder, validation_scenes

MEASURES = (*(f"click{n}" for n in range(1, 10)), "box", "noisy_box", "refined", "best_of_3")
REQUIRED = {
    *MEASURES,
    "noc80",
    "noc90",
    "coarse",
    "boundary_iou",
    "boundary_iou_1",
    "boundary_iou_8",
    "harmed",
}
WINDOW = Window(0, 1)


@dataclass(frozen=True)
class _Labels:
    """Features of an image that is its own label map."""

    labels: AnyArray
    window: Window = WINDOW
    nbytes: int = 0

    @property
    def image_shape(self) -> tuple[int, int]:
        return self.labels.shape  # type: ignore[return-value]


class KnowsAll:
    """Predicts from images that are label maps; `answer` may be overridden to be less than perfect."""

    card = ModelCard("knows-all", "0" * 64)

    def __init__(self) -> None:
        self.asked: list[tuple[Prompt, bool]] = []
        self.fine: list[bool | None] = []
        self.embedded = 0

    def embed(self, image: AnyArray, *, window: Window | None = None) -> FeaturesLike:
        self.embedded += 1
        return _Labels(image)

    def predict(
        self, features: FeaturesLike, prompt: Prompt, *, multimask: bool = True, fine: bool | None = None
    ) -> MaskPrediction:
        return self.predict_many(features, [prompt], multimask=multimask, fine=fine)[0]

    def predict_many(
        self,
        features: FeaturesLike,
        prompts: Sequence[Prompt],
        *,
        multimask: bool = True,
        fine: bool | None = None,
    ) -> list[MaskPrediction]:
        assert isinstance(features, _Labels)
        self.fine.append(fine)
        return [self._one(features.labels, prompt, multimask=multimask) for prompt in prompts]

    def _one(self, labels: AnyArray, prompt: Prompt, *, multimask: bool) -> MaskPrediction:
        self.asked.append((prompt, multimask))
        masks = self.answer(self._truth(labels, prompt), prompt, multimask=multimask)
        count = len(masks)
        logits = np.where(masks, 5, -5).astype(np.float32)
        return MaskPrediction(
            masks, np.linspace(0.9, 0.8, count, dtype=np.float32), logits, np.full(count, 4)
        )

    def _truth(self, labels: AnyArray, prompt: Prompt) -> np.ndarray:
        masks = [labels == n for n in np.unique(labels)[1:]]
        if prompt.box is not None:
            box = prompt.box
            return min(
                masks,
                key=lambda m: sum(abs(a - b) for a, b in zip(_ends(box_of(m)), _ends(box), strict=True)),
            )
        if prompt.points is None:
            assert prompt.mask is not None
            return max(masks, key=lambda m: np.count_nonzero(m & (prompt.mask > 0)))
        assert prompt.points is not None
        row, col = prompt.points.coords[0].astype(int)
        return labels == labels[row, col]

    def answer(self, truth: np.ndarray, prompt: Prompt, *, multimask: bool) -> np.ndarray:
        return np.stack([truth] * (3 if multimask else 1))


def _ends(box: Box) -> tuple[float, float, float, float]:
    return box.row0, box.col0, box.row1, box.col1


class KnowsNothing(KnowsAll):
    """Every mask is empty."""

    def answer(self, truth: np.ndarray, prompt: Prompt, *, multimask: bool) -> np.ndarray:
        return np.zeros((3 if multimask else 1, *truth.shape), dtype=bool)


class Learns(KnowsAll):
    """Finds one sixth of the object with each click; the last of three masks is the whole."""

    def answer(self, truth: np.ndarray, prompt: Prompt, *, multimask: bool) -> np.ndarray:
        clicks = 6 if prompt.points is None else len(prompt.points)
        inside = np.argwhere(truth)
        found = np.zeros_like(truth)
        found[tuple(inside[: round(len(inside) * clicks / 6)].T)] = True
        return np.stack([found, np.zeros_like(truth), truth] if multimask else [found])


def label_image(name: str = "discs", *, modality: str = "fluorescence", radius: float = 7) -> Annotated:
    """Return an image that is its own label map."""
    labels = disc_labels(radius=radius)
    return annotate(name, labels.astype(np.uint16), labels, modality=modality)


def test_who_knows_all_scores_one_everywhere() -> None:
    predictor = KnowsAll()
    item = label_image()
    result = evaluate(predictor, [item])
    summary = result.as_dict()
    assert {summary[m] for m in (*MEASURES, "boundary_iou")} == {1.0}
    assert summary["score_error"] == pytest.approx(0.1)
    assert (summary["model"], summary["images"], summary["objects"]) == ("knows-all", 1, len(item.objects))
    assert predictor.embedded == 1
    assert len(predictor.asked) == 4 * len(item.objects)  # first click, two boxes, a mask: nothing to correct
    assert summary["noc90"] == 1.0
    assert 0.4 < float(str(summary["coarse"])) < 1.0


def test_who_knows_nothing_scores_zero_everywhere() -> None:
    summary = evaluate(KnowsNothing(), [label_image()]).as_dict()
    assert {summary[m] for m in (*MEASURES, "boundary_iou")} == {0.0}
    assert summary["noc80"] == 10.0  # not even after nine


def test_more_clicks_count_as_more() -> None:
    result = evaluate(Learns(), [label_image()])
    summary = result.as_dict()
    for clicks in range(1, 6):
        assert summary[f"click{clicks}"] == pytest.approx(clicks / 6, abs=0.01)
    assert summary["click6"] == summary["click9"] == summary["box"] == summary["best_of_3"] == 1.0
    assert summary["noc80"] == 5.0
    assert summary["noc90"] == 6.0
    assert summary["harmed"] == 0.0
    assert all(list(o.clicks) == sorted(o.clicks) for o in result.objects)


def test_the_protocol_of_prompts() -> None:
    predictor = Learns()
    labels = np.zeros((40, 40), dtype=np.uint32)
    labels[8:28, 10:30] = 1
    evaluate(predictor, [annotate("one", labels.astype(np.uint8), labels, modality="x")])
    truth = labels == 1
    (first, first_multi), *later, (boxed, boxed_multi), (noisy, _), (drawn, _) = predictor.asked
    assert boxed.box == box_of(truth)
    assert boxed.points is None
    assert noisy.box is not None
    assert noisy.box != boxed.box
    assert drawn.mask is not None
    assert drawn.mask.dtype == np.bool_
    assert (boxed_multi, first_multi) == (False, True)
    assert first.points is not None
    assert first.mask is None
    assert first.points.coords.tolist() == [list(deepest_point(truth))]
    assert len(later) == 5  # with the sixth click, everything is found
    guess = predictor.answer(truth, first, multimask=True)[0]
    for turn, (prompt, multimask) in enumerate(later, start=2):
        assert not multimask
        assert prompt.points is not None
        assert prompt.mask is not None
        assert len(prompt.points) == turn
        assert np.array_equal(prompt.mask > 0, guess)  # the logits of the answer before
        row, col = prompt.points.coords[-1].astype(int)
        assert prompt.points.positive[-1] == truth[row, col] != guess[row, col]
        guess = predictor.answer(truth, prompt, multimask=False)[0]


@pytest.mark.parametrize("fine", [None, True, False])
def test_fine_boundaries_are_asked_for_in_every_round(fine: bool | None) -> None:
    predictor = Learns()
    evaluate(predictor, [label_image()], fine=fine)
    assert len(predictor.fine) == 9 + 1  # nine rounds of clicks, boxes and masks
    assert set(predictor.fine) == {fine}


def test_the_result_is_plain_json_with_all_measures() -> None:
    items = [label_image("a", modality="em"), label_image("b", modality="phase", radius=4)]
    summary = json.loads(json.dumps(evaluate(Learns(), items).as_dict()))
    assert summary.keys() >= REQUIRED | {"by_size", "by_gap", "by_modality"}
    assert set(summary["by_modality"]) == {"em", "phase"}
    counts = {name: part["objects"] for name, part in summary["by_size"].items()}
    assert counts == {"under 100": len(items[1].objects), "100 to 400": len(items[0].objects)}
    for part in (*summary["by_size"].values(), *summary["by_modality"].values()):
        assert part.keys() >= set(MEASURES)
    assert sum(part["objects"] for part in summary["by_modality"].values()) == summary["objects"]


def test_sizes_are_half_open() -> None:
    edges = [low for low, _, _ in results.SIZES[1:]]
    assert edges == [100, 400, 1600]
    labels = np.zeros((60, 60), dtype=np.uint32)
    labels[:10, :10], labels[20:40, 20:40] = 1, 2
    by_size = evaluate(KnowsAll(), [annotate("x", labels.astype(np.uint8), labels, modality="x")]).as_dict()[
        "by_size"
    ]
    assert list(by_size) == ["100 to 400", "400 to 1600"]  # type: ignore[call-overload]


def test_a_choice_of_objects_is_the_same_every_time() -> None:
    item = label_image(radius=4)
    assert len(item.objects) > 6
    chosen = []
    for _ in range(2):
        predictor = KnowsAll()
        assert len(evaluate(predictor, [item, item], most_objects=3).objects) == 6
        chosen.append([p.box for p, _ in predictor.asked])
    assert chosen[0] == chosen[1]
    assert len(evaluate(KnowsAll(), [item], most_objects=999).objects) == len(item.objects)


def test_how_dense_objects_lie() -> None:
    labels = np.zeros((64, 64), dtype=np.uint32)
    labels[:10, :10], labels[:10, 10:20], labels[:10, 25:35], labels[50:60, 50:60] = 1, 2, 3, 4
    item = annotate("x", labels.astype(np.uint8), labels, modality="x")
    gaps = [o.gap for o in evaluate(KnowsAll(), [item]).objects]
    assert gaps[:3] == [1.0, 1.0, 6.0]
    assert gaps[3] > 10
    by_gap = evaluate(KnowsAll(), [item]).as_dict()["by_gap"]
    assert {name: part["objects"] for name, part in by_gap.items()} == {"touching": 2, "near": 1, "alone": 1}  # type: ignore[attr-defined]


def test_scores_that_rank_answers() -> None:
    assert results.rank_correlation([0.1, 0.5, 0.7], [0.2, 0.3, 0.9]) == 1.0
    assert results.rank_correlation([0.7, 0.5, 0.1], [0.2, 0.3, 0.9]) == -1.0
    assert results.rank_correlation([0.5, 0.5], [0.2, 0.3]) == 0.0
    ties = results.rank_correlation([1, 1, 2, 3], [1, 2, 3, 4])
    assert ties == pytest.approx(4.5 / np.sqrt(4.5 * 5), abs=1e-4)


def test_harm_is_counted() -> None:
    class Forgets(Learns):
        def answer(self, truth: np.ndarray, prompt: Prompt, *, multimask: bool) -> np.ndarray:
            masks = super().answer(truth, prompt, multimask=multimask)
            return masks[:, ::-1, ::-1] if prompt.points is not None and len(prompt.points) == 2 else masks

    assert evaluate(Forgets(), [label_image()], clicks=3).as_dict()["harmed"] == 0.5


def test_parts_are_not_asked_for() -> None:
    item = label_image()
    from dataclasses import replace

    objects = tuple(replace(o, is_primary=i == 0) for i, o in enumerate(item.objects))
    assert len(evaluate(KnowsAll(), [replace(item, objects=objects)]).objects) == 1


def test_images_beyond_one_batch_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    item = label_image(radius=4)
    whole = evaluate(Learns(), [item])
    monkeypatch.setattr(metrics, "_BATCH", 4)
    assert evaluate(Learns(), [item]).objects == whole.objects


def test_progress_is_told() -> None:
    told: list[tuple[int, str]] = []
    evaluate(
        KnowsAll(), [label_image("a"), label_image("b")], progress=lambda n, name: told.append((n, name))
    )
    assert told == [(1, "a"), (2, "b")]


def test_nothing_to_measure_is_an_error(tmp_path: Path) -> None:
    empty = np.zeros((20, 20), dtype=np.uint32)
    with pytest.raises(DataError, match="none of the 1 images"):
        evaluate(KnowsAll(), [annotate("e", empty.astype(np.uint8), empty, modality="x")])
    with pytest.raises(DataError, match="none of the 0 images"):
        evaluate(KnowsAll(), [])
    with pytest.raises(DataError, match="images/ and labels/"):
        evaluate_folder(KnowsAll(), tmp_path)
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    with pytest.raises(DataError, match="none of the 0 images"):
        evaluate_folder(KnowsAll(), tmp_path)


def test_a_folder_is_measured_by_split(tmp_path: Path) -> None:
    names = [f"n{i}" for i in range(12)]
    kept = [name for name in names if is_validation(name)]
    assert 0 < len(kept) < len(names)
    labels = disc_labels()
    for name in names:
        write_pair(tmp_path, name, image=labels.astype(np.uint16), labels=labels.astype(np.uint16))
    for split, count in (("all", 12), ("validation", len(kept)), ("training", 12 - len(kept))):
        result = evaluate_folder(KnowsAll(), tmp_path, split=split, most_objects=1)
        assert (result.images, len(result.objects)) == (count, count)
    with pytest.raises(DataError, match=r"'test'.*validation"):
        evaluate_folder(KnowsAll(), tmp_path, split="test")


def test_validation_scenes_are_of_every_kind_and_repeat() -> None:
    one, two = (list(validation_scenes(3, seed=5, size=(64, 64))) for _ in range(2))
    assert [item.modality for item in one] == list(metrics.KINDS[:3])
    assert [item.name for item in one] == [f"{kind}-{5 + i}" for i, kind in enumerate(metrics.KINDS[:3])]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(one, two, strict=True))


def square(start: int, side: int) -> np.ndarray:
    mask = np.zeros((30, 30), dtype=bool)
    mask[start : start + side, start : start + side] = True
    return mask


def test_boundary_iou_by_hand() -> None:
    whole, inner = square(5, 20), square(9, 12)
    assert boundary_iou(whole, whole) == 1.0
    assert boundary_iou(whole, inner, distance=2) == 0.0  # rims two pixels wide, four apart
    assert boundary_iou(whole, np.zeros_like(whole)) == 0.0
    # A square of 20 has a rim of 20**2 - 18**2 = 76 pixels; filled, a hole of 16**2 lies inside the rim of two.
    hollow = whole & ~square(7, 16)
    assert boundary_iou(whole, hollow, distance=2) == 1.0
    # Its own rim of one: the same 76, and the four sides of the hole, 16 each.
    assert boundary_iou(whole, hollow, distance=1) == 76 / (76 + 4 * 16)
    # Shifted by one row: rims of one pixel share the sides' 19 rows twice, and nothing of the top and bottom rows
    # but their ends, which belong to the sides.
    shifted = np.roll(whole, 1, axis=0)
    assert boundary_iou(whole, shifted, distance=1) == (2 * 19) / (76 + 76 - 2 * 19)
    corner = square(0, 20)  # the image's edge is an outline as well
    assert boundary_iou(corner, corner[::-1, ::-1], distance=2) < 0.5
    assert boundary_iou(corner, corner) == 1.0


def test_fewer_pixels_wrong_is_a_better_boundary() -> None:
    whole = square(5, 20)
    values = [boundary_iou(np.roll(whole, shift, axis=1), whole) for shift in range(4)]
    assert values == sorted(values, reverse=True)


def test_a_picture_is_embedded_as_it_is() -> None:
    """Real images reach the predictor raw: windows are its own business."""
    seen: list[np.ndarray] = []

    class Looks(KnowsNothing):
        def embed(self, image: AnyArray, *, window: Window | None = None) -> FeaturesLike:
            seen.append(np.asarray(image))
            return _Labels(disc_labels())

    item = disc_image()
    evaluate(Looks(), [item])
    assert seen[0].dtype == np.uint16
    assert np.array_equal(seen[0], item.image)

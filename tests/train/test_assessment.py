"""The whole evaluation: parts that go on where they stopped, pictures, and the page."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from annotated_images import disc_labels, write_pair

from napari_segany.core.errors import DataError, SettingsError
from napari_segany.core.types import ModelCard
from napari_segany.models.sam2 import build_sam2
from napari_segany.predict.loading import Model, assemble
from napari_segany.predict.precision import place
from napari_segany.train import assessment
from napari_segany.train.assessment import PARTS, Measured, Scope, assess, read_assessment
from napari_segany.train.cases import SIDE, draw_answer, pick, square_around, square_at
from napari_segany.train.dataset import is_validation
from napari_segany.train.real_images import REAL_IMAGES
from napari_segany.train.report import write_report
from napari_segany.train.results import Evaluation, ObjectResult

FEW = Scope(parts=("scenes", "nested", "finding", "real"), scenes=1, nested=1, most_objects=2)


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    card = ModelCard("sam2-nano", "5" * 64)
    weights = build_sam2("sam2-nano").state_dict()
    return assemble(card, weights, placement=place("cpu"), where="a test")


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_segany.train.real_images.REAL_IMAGES", REAL_IMAGES[3:4])


def outcome(image: str, index: int, click: float) -> ObjectResult:
    return ObjectResult(
        image,
        index,
        "em",
        50,
        9.0,
        (click, click),
        0.5,
        0.5,
        0.5,
        0.5,
        (click,),
        (0.5,),
        (0.5,) * 4,
        (0.5,) * 4,
    )


def test_parts_that_are_known_are_not_measured_again(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    first = assess(model, tmp_path, FEW, progress=lambda part, done, name: told.append(part))
    assert dict.fromkeys(told) == dict.fromkeys(
        ("scenes", "nested", "real")
    )  # this one finds nothing by itself
    assert list(first["parts"]) == list(FEW.parts)
    assert read_assessment(tmp_path) == json.loads(json.dumps(first))
    told.clear()
    assert assess(model, tmp_path, FEW, progress=lambda part, done, name: told.append(part)) == first
    assert not told
    (tmp_path / "nested.json").write_text('{"key": ')  # cut short by a full disk
    with pytest.warns(UserWarning, match=r"nested\.json"):
        again = assess(model, tmp_path, FEW, progress=lambda part, done, name: told.append(part))
    assert again == first
    assert set(told) == {"nested"}
    told.clear()
    other = Model(ModelCard("sam2-nano", "6" * 64), model.network, model.placement)
    monkeypatch.setitem(assessment._MEASURES, "scenes", assessment._finding)  # anything that is quick
    assess(other, tmp_path, Scope(parts=("scenes",), scenes=1), progress=lambda part, *_: told.append(part))
    assert read_assessment(tmp_path)["weights"] == "6" * 64


def test_pictures_of_the_best_and_the_worst_and_a_page_that_shows_them(model: Model, tmp_path: Path) -> None:
    whole = assess(model, tmp_path, FEW)
    rows = whole["parts"]["scenes"]["pictures"]
    assert set(rows) == {"best", "median", "worst"}
    files = [
        shown["file"]
        for part in whole["parts"].values()
        for row in part["pictures"].values()
        for shown in row
    ]
    assert len(files) == len(set(files)) > 3
    assert all((tmp_path / file).stat().st_size > 100 for file in files)
    page = write_report(tmp_path, [("", whole), ("other", {**whole, "model": "<other>"})]).read_text()
    for file in files:
        assert f'src="{file}"' in page
        assert f'src="other/{file}"' in page
    assert "<other>" not in page
    assert "sam2-nano was left out: " in page
    both = write_report(tmp_path, [("", whole), ("other", {**whole, "weights": "7" * 64})]).read_text()
    assert "<td>sam2-nano 55555555</td>" in both  # two weights of one model stand beside each other
    assert "<td>sam2-nano 77777777</td>" in both
    numbers = re.search(r"<td>sam2-nano</td>(.*?)</tr>", page)
    assert numbers is not None
    assert f"<td>{whole['parts']['scenes']['result']['click1']:.3f}</td>" in numbers[1]


def test_labelled_images_are_those_that_training_held_back(model: Model, tmp_path: Path) -> None:
    labels = disc_labels()
    names = [f"n{i}" for i in range(8)]
    for name in names:
        write_pair(tmp_path / "data", name, image=labels.astype(np.uint16), labels=labels.astype(np.uint16))
    scope = Scope(parts=("images",), data=tmp_path / "data", most_objects=1)
    result = assess(model, tmp_path / "out", scope)["parts"]["images"]["result"]
    assert result["images"] == sum(is_validation(name) for name in names)


def test_everything_that_there_are_data_for(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in PARTS:
        monkeypatch.setitem(assessment._MEASURES, part, lambda *_: Measured({"click1": 0.5}))
    assert tuple(assess(model, tmp_path)["parts"]) == PARTS[1:]
    assert tuple(assess(model, tmp_path, Scope(data=tmp_path))["parts"]) == PARTS


def test_parts_that_do_not_exist() -> None:
    with pytest.raises(SettingsError, match=r"'sound'.*images, scenes"):
        Scope(parts=("sound",))
    with pytest.raises(SettingsError, match="images/ and labels/"):
        Scope(parts=("images",))


def test_a_folder_without_an_evaluation(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="segany evaluate --report"):
        read_assessment(tmp_path)


def test_picked_objects_are_of_different_images() -> None:
    results = [outcome(f"i{k // 3}", k, k / 11) for k in range(12)]
    picked = pick(Evaluation("m", 4, tuple(results)), each=3)
    assert [o.index for o in picked.best] == [11, 8, 5]
    assert [o.index for o in picked.worst] == [0, 3, 6]
    assert len({o.image for o in picked.median}) == 3
    assert picked.median[0].index in (5, 6)


def test_a_picture_of_an_answer() -> None:
    rgb = np.full((60, 90, 3), 40, dtype=np.uint8)
    mask = np.zeros((60, 90), dtype=bool)
    mask[20:30, 40:60] = True
    window = square_around(mask)
    rows, cols = window
    assert rows.stop - rows.start == cols.stop - cols.start == 52
    assert rows.start <= 20
    assert rows.stop >= 30
    assert cols.start <= 40
    assert cols.stop >= 60
    picture = draw_answer(rgb, mask, (25, 50), window=window, truth=~mask)
    assert picture.shape == (SIDE, SIDE, 3)
    assert {tuple(c) for c in np.unique(picture.reshape(-1, 3), axis=0)} == {
        (40, 40, 40),
        (0, 200, 120),
        (230, 60, 160),
        (255, 220, 0),
    }
    assert square_at((0, 89), 40, (60, 90)) == (slice(0, 40), slice(50, 90))
    assert square_at((30, 30), 400, (60, 90)) == (slice(0, 60), slice(0, 60))


@pytest.mark.parametrize("real", REAL_IMAGES, ids=lambda real: real.name)
def test_clicks_lie_in_the_images_that_the_wheel_of_skimage_carries(real) -> None:  # type: ignore[no-untyped-def]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is downloaded
        height, width = real.pixels().shape[:2]
    assert all(0 <= row < height and 0 <= col < width for row, col in real.clicks)

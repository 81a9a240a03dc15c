"""The picture of a run: every series at its place, whatever the history holds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from napari_segany.train.charts import HEIGHT, MARGIN, WIDTH, line_chart
from napari_segany.train.curve import COLOURS, draw_curve


def row(step: int, loss: float, **metrics: float) -> dict[str, object]:
    return {"step": step, "of_steps": 100, "loss": loss, "metrics": metrics}


def drawn(folder: Path, rows: list[dict[str, object]]) -> ElementTree.Element:
    """Write a history, draw it, and parse the picture."""
    history = folder / "history.jsonl"
    history.write_text("\n".join(json.dumps(r) for r in rows) + "\n\n")
    draw_curve(history, folder / "curve.svg")
    return ElementTree.fromstring((folder / "curve.svg").read_text())


def lines_of(picture: ElementTree.Element) -> dict[str, list[tuple[float, float]]]:
    """Return the points of each line by its colour."""
    found = {}
    for line in picture.iter("{http://www.w3.org/2000/svg}polyline"):
        numbers = [float(n) for n in re.split("[ ,]", line.attrib["points"])]
        found[line.attrib["stroke"]] = list(zip(numbers[::2], numbers[1::2], strict=True))
    return found


def test_losses_and_scores_are_at_their_places(tmp_path: Path) -> None:
    lines = lines_of(drawn(tmp_path, [row(50, 4.0), row(100, 2.0, click1=0.25, box=1.0, score=0.9)]))
    assert set(lines) == {COLOURS["loss"], COLOURS["click1"], COLOURS["box"]}
    middle, right, low, high = WIDTH / 2, WIDTH - MARGIN, HEIGHT - MARGIN, MARGIN
    assert lines[COLOURS["loss"]] == [(middle, high), (right, (low + high) / 2)]  # scaled to its maximum
    assert lines[COLOURS["click1"]] == [(right, pytest.approx(low - 0.25 * (low - high), abs=0.1))]
    assert lines[COLOURS["box"]] == [(right, high)]


def test_the_legend_tells_the_last_values(tmp_path: Path) -> None:
    picture = drawn(tmp_path, [row(50, 4.0, click1=0.1), row(100, 2.0, click1=0.25)])
    texts = [t.text for t in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert "loss 2.000" in texts
    assert "click1 0.250" in texts
    assert "100 steps" in texts


def test_an_empty_history_draws_nothing(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text("\n")
    draw_curve(tmp_path / "history.jsonl", tmp_path / "curve.svg")
    assert not (tmp_path / "curve.svg").exists()


def test_losses_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    lines = lines_of(
        drawn(tmp_path, [row(20, 3.0), row(40, float("nan")), row(60, float("inf")), row(80, 0.0)])
    )
    assert len(lines[COLOURS["loss"]]) == 2
    assert lines_of(drawn(tmp_path, [row(20, 0.0)]))[COLOURS["loss"]] == [
        (pytest.approx(170.4), HEIGHT - MARGIN)
    ]


def test_a_chart_from_the_least_to_the_greatest_with_its_numbers_below() -> None:
    picture = ElementTree.fromstring(
        line_chart({"a <b>": [(1, 0.5), (9, 1.0)], "c": [(5, 0.0)]}, across="clicks", is_marked=True)
    )
    first, second = lines_of(picture).values()
    assert first == [(MARGIN, pytest.approx(HEIGHT / 2, abs=0.1)), (WIDTH - MARGIN, MARGIN)]
    assert second == [(WIDTH / 2, HEIGHT - MARGIN)]
    texts = [t.text for t in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a <b> 1.000", "c 0.000", "1", "5", "9", "clicks"} <= set(texts)
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}circle"))) == 3


def test_a_chart_of_nothing_is_a_picture() -> None:
    assert lines_of(ElementTree.fromstring(line_chart({}, across="x"))) == {}

"""Prompts typed on the command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_segany.cli.inline import parse_boxes, parse_points, parse_range
from napari_segany.core.errors import AxesError, PromptError
from napari_segany.core.types import Box


def test_objects_part_at_semicolons_and_clicks_at_spaces() -> None:
    first, second = parse_points("120,80 95.5,110,- 3,4,+; 200,310")
    assert first.coords.tolist() == [[120.0, 80.0], [95.5, 110.0], [3.0, 4.0]]
    assert first.positive.tolist() == [True, False, True]
    assert second.coords.tolist() == [[200.0, 310.0]]
    assert second.positive.tolist() == [True]


@given(
    st.lists(st.tuples(st.integers(-9, 9999), st.integers(-9, 9999), st.booleans()), min_size=1, max_size=5)
)
def test_clicks_come_back_as_written(clicks: list[tuple[int, int, bool]]) -> None:
    text = " ".join(f"{row},{col},{'+' if positive else '-'}" for row, col, positive in clicks)
    (points,) = parse_points(text)
    assert points.coords.tolist() == [[row, col] for row, col, _ in clicks]
    assert points.positive.tolist() == [positive for _, _, positive in clicks]


@pytest.mark.parametrize("text", ["", " ; ", "12", "1,2,3", "1,2,+,4", "a,b", "1,", "nan,3", "inf,1", "1;2"])
def test_bad_clicks_are_refused_with_the_form(text: str) -> None:
    with pytest.raises(PromptError, match=r"row,col"):
        parse_points(text)


def test_boxes() -> None:
    assert parse_boxes("10,20,60,90; 5,5,40.5,40") == [Box(10, 20, 60, 90), Box(5, 5, 40.5, 40)]
    assert parse_boxes("1,2,3,4 5,6,7,8") == [Box(1, 2, 3, 4), Box(5, 6, 7, 8)]


@pytest.mark.parametrize("text", ["", ";", "1,2,3", "1,2,3,4,5", "1,2,x,4", "1,2,nan,4"])
def test_bad_boxes_are_refused_with_the_form(text: str) -> None:
    with pytest.raises(PromptError, match=r"row0,col0,row1,col1"):
        parse_boxes(text)


def test_an_inverted_box_is_refused() -> None:
    with pytest.raises(PromptError, match="inverted"):
        parse_boxes("10,10,5,20")


@pytest.mark.parametrize(
    ("text", "frames"),
    [
        ("10:40", range(10, 40)),
        ("10:", range(10, 50)),
        (":40", range(40)),
        (":", range(50)),
        (" 0 : 1 ", range(1)),
    ],
)
def test_ranges(text: str, frames: range) -> None:
    assert range(50)[parse_range(text)] == frames


@pytest.mark.parametrize("text", ["", "5", "5:5", "40:10", "a:b", "-3:5", "1:2:3", "1.5:3", ":0"])
def test_ranges_that_are_none(text: str) -> None:
    with pytest.raises(AxesError, match="first:end"):
        parse_range(text)

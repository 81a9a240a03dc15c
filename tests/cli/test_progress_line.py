"""What a person sees of a long run: a rewritten line on a terminal, a line now and then in a log."""

from __future__ import annotations

import io

import pytest

from napari_segany.cli.progress import ProgressLine


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _run(out: io.StringIO, *, seconds: float, frames: int, total: int) -> str:
    clock = Clock()
    line = ProgressLine("following", out=out, clock=clock)
    for done in range(1, frames + 1):
        clock.now += seconds
        line.show(done, total=total)
    line.end()
    return out.getvalue()


def test_a_log_gets_a_line_now_and_then_and_the_last_one() -> None:
    lines = _run(io.StringIO(), seconds=4, frames=7, total=10).splitlines()
    assert lines == [
        "following: 3/10 frames, 0.25 frames/s, 0:28 left",
        "following: 6/10 frames, 0.25 frames/s, 0:16 left",
        "following: 7/10 frames, 0.25 frames/s, 0:12 left",
    ]


def test_nothing_is_said_twice() -> None:
    lines = _run(io.StringIO(), seconds=20, frames=2, total=2).splitlines()
    assert lines == [
        "following: 1/2 frames, 0.05 frames/s, 0:20 left",
        "following: 2/2 frames, 0.05 frames/s, 0:00 left",
    ]


def test_a_terminal_has_one_line_that_is_rewritten_and_left() -> None:
    text = _run(Screen(), seconds=1, frames=12, total=4000)
    assert text.count("\r") == 12 and text.count("\n") == 1 and text.endswith("\n")
    assert "following: 12/4000 frames, 1 frames/s, 1:06:28 left" in text


@pytest.mark.parametrize("out", [io.StringIO(), Screen()])
def test_no_frame_no_line(out: io.StringIO) -> None:
    ProgressLine("following", out=out).end()
    assert out.getvalue() == ""


def test_the_first_moment_is_no_division_by_zero() -> None:
    out = Screen()
    line = ProgressLine("following", out=out, clock=lambda: 5.0)
    line.show(0, total=3)
    line.show(1, total=3)
    line.end()
    assert "1/3 frames" in out.getvalue()

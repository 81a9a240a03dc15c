"""`segany evaluate --video`: the table and the JSON, with a predictor that knows the labels."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from napari_segany.cli import main
from napari_segany.core.types import FrameMasks, FrameSource, ModelCard, Prompt
from napari_segany.train import video_metrics
from napari_segany.train.movies import Clip

RENDERED: dict[bytes, Clip] = {}


class _State:
    """An open clip: which label is which object, and what was not answered yet."""

    def __init__(self, clip: Clip) -> None:
        self.clip, self.n_frames = clip, len(clip)
        self.objects: dict[int, int] = {}
        self.stale: dict[int, set[int]] = {}


class _Eroding:
    """Answers the true mask on prompted frames, and half of it (rows above the middle) on all others."""

    card = ModelCard("eroding", "0")

    def __init__(self, model: str) -> None:
        assert model == "loaded sam2-nano"

    def open(self, frames: FrameSource) -> _State:
        return _State(RENDERED[np.asarray(frames).tobytes()])

    def prompt(self, state: _State, prompt: Prompt, *, frame: int, object_id: int) -> FrameMasks:
        assert prompt.points is not None
        row, col = prompt.points.coords[0].astype(int)
        state.objects.setdefault(object_id, int(state.clip.labels[frame, row, col]))
        state.stale.setdefault(object_id, set(range(state.n_frames))).discard(frame)
        mask = state.clip.labels[frame] == state.objects[object_id]
        return FrameMasks(frame, np.array([object_id]), mask[None], np.ones(1, dtype=np.float32))

    def propagate(self, state: _State, frames: range) -> Iterator[FrameMasks]:
        for frame in frames:
            for number in [n for n, stale in state.stale.items() if frame in stale]:
                state.stale[number].discard(frame)
                mask = state.clip.labels[frame] == state.objects[number]
                rows = np.flatnonzero(mask.any(axis=1))
                mask[rows[len(rows) // 2] if len(rows) else 0 :] = False
                yield FrameMasks(frame, np.array([number]), mask[None], np.ones(1, dtype=np.float32))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Replace the model, and render short clips."""
    asked: dict[str, object] = {}
    render = video_metrics.render_clip

    def rendered(seed: int, *, kind: str, **_: object) -> Clip:
        clip = render(seed, kind=kind, frames=5, size=(96, 96))
        RENDERED[clip.images.tobytes()] = clip
        return clip

    def loaded(name: str, **options: object) -> str:
        asked.update(options)
        return f"loaded {name}"

    monkeypatch.setattr(video_metrics, "render_clip", rendered)
    monkeypatch.setattr("napari_segany.predict.loading.load_model", loaded)
    monkeypatch.setattr("napari_segany.predict.video.VideoPredictor", _Eroding)
    return asked


def test_prints_one_json_object(small: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "evaluate",
        "--video",
        "--clips",
        "4",
        "--seed",
        "2",
        "--corrections",
        "1",
        "--clicks",
        "2",
        "--most-objects",
        "2",
    ]
    assert main([*words, "--device", "cpu", "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert small == {"device": "cpu", "precision": "auto"}
    assert (report["model"], report["clips"], report["frames"], report["corrections"]) == (
        "eroding",
        4,
        20,
        1,
    )
    assert report["clicks_per_correction"] == 2
    assert report["objects"] <= 8
    first, last = report["by_corrections"]["0"], report["by_corrections"]["1"]
    assert 0.4 < first["iou"] < last["iou"] == report["iou"] < 1
    assert report["drift"]["0"] == 1.0
    assert report["absent"] in (1.0, None)
    assert set(report["by_axis"]) == {"t", "z"}
    assert "4 clips" in captured.err


def test_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--video", "--clips", "2", "--most-objects", "2", "--corrections", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "eroding, 2 clips, 10 frames; a correction is up to 3 clicks on one frame"
    assert lines[1].split()[:3] == ["objects", "object_frames", "iou"]
    names = [line[:14].strip() for line in lines[2:9]]
    assert names[:5] == ["one click", "1 correction", "2 corrections", "movies", "stacks"]
    one, two = (float(lines[place].split()[4]) for place in (2, 3))
    assert one < two < 1
    assert "frames from the nearest prompt" in lines[-5]
    assert lines[-4].split() == ["0", "1", "8", "16", "32", "48"]
    assert lines[-3].split()[:3] == ["one", "click", "1.000"]


def test_images_need_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate"]) == 2
    assert "--data" in capsys.readouterr().err


@pytest.mark.parametrize("extra", [["--data", "somewhere"], ["--against", "sam2-nano"]])
def test_clips_are_rendered_and_not_read(extra: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--video", *extra]) == 2
    assert "own clips" in capsys.readouterr().err


def test_seeds_of_training_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--video", "--seed", str(2**32)]) == 2
    assert "validation seeds" in capsys.readouterr().err

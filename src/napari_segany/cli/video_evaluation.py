"""`segany evaluate --video`: how well a model follows objects, measured and printed as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from napari_segany.train.video_results import VideoEvaluation

_MEASURES = ("objects", "object_frames", "iou", "absent_frames", "absent", "division_frames", "swallowed")
_AXES = {"t": "movies", "z": "stacks"}


def evaluate_clips(
    model: str,
    *,
    clips: int,
    seed: int,
    corrections: int,
    clicks: int,
    most_objects: int | None,
    as_json: bool,
    device: str,
    precision: str,
) -> None:
    """Measure a model on procedural movies and stacks that training never sees, and print the result."""
    from napari_segany.predict.loading import load_model
    from napari_segany.predict.video import VideoPredictor
    from napari_segany.train.video_metrics import evaluate_video, validation_clips

    predictor = VideoPredictor(load_model(model, device=device, precision=precision))
    result = evaluate_video(
        predictor,
        validation_clips(clips, seed=seed),
        corrections=corrections,
        clicks=clicks,
        most_objects=6 if most_objects is None else most_objects,
        progress=_show_progress,
    )
    typer.echo(err=True)
    typer.echo(json.dumps(result.as_dict()) if as_json else table(result))


def _show_progress(done: int, kind: str) -> None:
    """Rewrite one line of the terminal."""
    typer.echo(f"\r{done} clips, last {kind:<12.12}", err=True, nl=False)


def table(result: VideoEvaluation) -> str:
    """Return the measures after each correction, by axis and by kind, then IoU by distance from a prompt."""
    whole = result.as_dict()
    by_turn: Mapping[str, Mapping[str, object]] = whole["by_corrections"]  # type: ignore[assignment]  # such a table
    rows = [(_turn(int(turn)), values) for turn, values in by_turn.items()]
    for group in ("by_axis", "by_kind"):
        parts: Mapping[str, Mapping[str, object]] = whole[group]  # type: ignore[assignment]  # such a table
        rows += [(_AXES.get(name, name), values) for name, values in parts.items()]
    width = max(len(name) for name, _ in rows) + 1
    clicks = f"a correction is up to {result.clicks} click{'s' if result.clicks > 1 else ''} on one frame"
    lines = [f"{result.model}, {result.clips} clips, {result.frames} frames; {clicks}"]
    lines.append(" " * width + "".join(f"{measure:>16}" for measure in _MEASURES))
    for name, values in rows:
        lines.append(name.ljust(width) + "".join(f"{_shown(values[m]):>16}" for m in _MEASURES))
    lines.append("\nmean IoU by frames from the nearest prompt")
    distances = list(by_turn["0"]["drift"])  # type: ignore[call-overload]  # a mapping
    lines.append(" " * width + "".join(f"{distance:>8}" for distance in distances))
    for turn, values in by_turn.items():
        drift: Mapping[str, object] = values["drift"]  # type: ignore[assignment]  # a mapping
        lines.append(_turn(int(turn)).ljust(width) + "".join(f"{_shown(drift[d]):>8}" for d in distances))
    return "\n".join(lines)


def _turn(corrections: int) -> str:
    """Return the name of a row."""
    return "one click" if corrections == 0 else f"{corrections} correction{'s' if corrections > 1 else ''}"


def _shown(value: object) -> str:
    """Return a number as text, a dash for none."""
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)

"""`segany evaluate --nested`: everything that a click lies in, measured and printed as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import typer

_MEASURES = ("nested", "single", "ordered", "named")


def evaluate_scenes(
    model: str,
    *,
    scenes: int,
    seed: int,
    against: str | None,
    as_json: bool,
    device: str,
    precision: str,
) -> None:
    """Measure one model or two on nested scenes that training never renders, and print the results."""
    result = _measured(model, scenes=scenes, seed=seed, device=device, precision=precision)
    other = None
    if against is not None:
        other = _measured(against, scenes=scenes, seed=seed, device=device, precision=precision)
    if as_json:
        both = result if other is None else {"model": result, "against": other}
        typer.echo(json.dumps(both))
        return
    typer.echo(table(result))
    if other is not None:
        gain = 100 * (float(str(result["nested"])) - float(str(other["nested"])))
        typer.echo(
            f"\n{table(other)}\n\n{result['model']} above {other['model']}, in points: nested {gain:+.1f}"
        )


def _measured(model: str, *, scenes: int, seed: int, device: str, precision: str) -> dict[str, Any]:
    """Return what a model reaches."""
    from napari_segany.predict.loading import load_model
    from napari_segany.train.assessment import nested_result

    loaded = load_model(model, device=device, precision=precision)
    result = nested_result(loaded, scenes=scenes, seed=seed, progress=_show_progress)
    typer.echo(err=True)
    return result


def _show_progress(done: int, name: str) -> None:
    """Rewrite one line of the terminal."""
    typer.echo(f"\r{done} scenes, last {name:<24.24}", err=True, nl=False)


def table(result: Mapping[str, object]) -> str:
    """Return the measures of all clicks and by kind of scene, then by level, as aligned text."""
    kinds: Mapping[str, Mapping[str, object]] = result["by_kind"]  # type: ignore[assignment]  # such a table
    rows: list[tuple[str, Mapping[str, object]]] = [("all", result), *kinds.items()]
    width = max(len(name) for name, _ in rows) + 1
    lines = [
        f"{result['model']}, {result['scenes']} scenes, {result['clicks']} clicks, {result['masks']} true masks"
    ]
    lines.append(" " * width + "".join(f"{measure:>10}" for measure in _MEASURES))
    lines += [
        name.ljust(width) + "".join(f"{_shown(values[m]):>10}" for m in _MEASURES) for name, values in rows
    ]
    levels: Mapping[str, object] = result["by_level"]  # type: ignore[assignment]  # such a table
    lines.append("best IoU by level: " + ", ".join(f"{level} {_shown(iou)}" for level, iou in levels.items()))
    if "without_prompts" in result:
        found: Mapping[str, object] = result["without_prompts"]  # type: ignore[assignment]  # such a table
        lines.append(
            "without prompts: " + ", ".join(f"{name} {_shown(value)}" for name, value in found.items())
        )
    return "\n".join(lines)


def _shown(value: object) -> str:
    """Return a number as text."""
    return f"{value:.3f}" if isinstance(value, float) else str(value)

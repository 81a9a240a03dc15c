"""The picture of a training run: loss and scores over steps, as a small SVG that needs no plotting library."""

from __future__ import annotations

import json
import math
from pathlib import Path

WIDTH, HEIGHT, MARGIN = 720, 300, 44
COLOURS = {"loss": "#888888", "click1": "#0072b2", "click3": "#009e73", "click5": "#56b4e9", "box": "#d55e00"}


def draw_curve(history: Path, picture: Path) -> None:
    """Draw the loss (scaled to its maximum) and every "click…" and "box" metric of a `history.jsonl`."""
    rows = [json.loads(line) for line in history.read_text().splitlines() if line.strip()]
    rows = [row for row in rows if math.isfinite(row["loss"])]
    if not rows:
        return
    steps = max(row["of_steps"] for row in rows)
    top = max(row["loss"] for row in rows) or 1.0
    series: dict[str, list[tuple[float, float]]] = {
        "loss": [(r["step"] / steps, r["loss"] / top) for r in rows]
    }
    for row in rows:
        for name, value in row["metrics"].items():
            if name in COLOURS:
                series.setdefault(name, []).append((row["step"] / steps, value))
    lines = [_polyline(points, COLOURS[name]) for name, points in series.items()]
    texts = [
        _legend(name, i, points[-1][1] * (top if name == "loss" else 1))
        for i, (name, points) in enumerate(series.items())
    ]
    picture.write_text(_page([*_grid(steps), *lines, *texts]))


def _place(x: float, y: float) -> tuple[float, float]:
    """Turn 0..1 on both axes into SVG pixels."""
    return MARGIN + x * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - y * (HEIGHT - 2 * MARGIN)


def _polyline(points: list[tuple[float, float]], colour: str) -> str:
    """Return one series."""
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in (_place(x, y) for x, y in points))
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>'


def _legend(name: str, index: int, last: float) -> str:
    """Return a series' name and its last value."""
    return f'<text x="{MARGIN + 110 * index}" y="20" fill="{COLOURS[name]}">{name} {last:.3f}</text>'


def _grid(steps: int) -> list[str]:
    """Return lines at every 0.2 with their labels, and the number of steps."""
    parts = []
    for fifth in range(6):
        (x0, y), (x1, _) = _place(0, fifth / 5), _place(1, fifth / 5)
        parts.append(f'<line x1="{x0}" y1="{y}" x2="{x1}" y2="{y}" stroke="#dddddd"/>')
        parts.append(f'<text x="8" y="{y + 4}" fill="#444444">{fifth / 5:.1f}</text>')
    parts.append(
        f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - 12}" text-anchor="end" fill="#444444">{steps} steps</text>'
    )
    return parts


def _page(parts: list[str]) -> str:
    """Return the whole SVG."""
    size = f'width="{WIDTH}" height="{HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', *parts, "</svg>\n"])

"""The picture of a training run: loss and scores over steps."""

from __future__ import annotations

import json
import math
from pathlib import Path

from .charts import line_chart

COLOURS = {
    "loss": "#888888",
    "click1": "#0072b2",
    "click3": "#009e73",
    "click5": "#56b4e9",
    "box": "#d55e00",
    "nested": "#0072b2",
    "single": "#009e73",
    "named": "#d55e00",
}
"""Of what is drawn; other metrics are not."""


def draw_curve(history: Path, picture: Path) -> None:
    """Draw the loss (scaled to its maximum) and the metrics of a `history.jsonl` that have a colour."""
    rows = [json.loads(line) for line in history.read_text().splitlines() if line.strip()]
    rows = [row for row in rows if math.isfinite(row["loss"])]
    if not rows:
        return
    steps = max(row["of_steps"] for row in rows)
    top = max(row["loss"] for row in rows) or 1.0
    series: dict[str, list[tuple[float, float]]] = {"loss": [(r["step"], r["loss"] / top) for r in rows]}
    for row in rows:
        for name, value in row["metrics"].items():
            if name in COLOURS:
                series.setdefault(name, []).append((row["step"], value))
    last = {"loss": rows[-1]["loss"]}
    picture.write_text(
        line_chart(series, across=f"{steps} steps", ends=(0, steps), colours=COLOURS, shown=last)
    )

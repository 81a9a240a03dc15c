"""Line charts as small SVGs that need no plotting library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, MARGIN = 720, 300, 44
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#666666")
"""Okabe and Ito's, which everyone can tell apart; a chart with more lines begins anew."""

_LETTER = 7  # pixels, about

Series = Mapping[str, Sequence[tuple[float, float]]]
"""Points (x, y) by the name of the line."""


def line_chart(
    series: Series,
    *,
    across: str,
    ends: tuple[float, float] | None = None,
    colours: Mapping[str, str] | None = None,
    shown: Mapping[str, float] | None = None,
    is_marked: bool = False,
) -> str:
    """Return an SVG of lines over a common x axis, y from 0 to 1.

    Parameters
    ----------
    across
        What x is, written below the axis at its end.
    ends
        Of the x axis; the least and the greatest x, if left out.
    colours
        Of lines by name; the others take their turn among `COLOURS`.
    shown
        Numbers to write beside names in place of the last y.
    is_marked
        Draw a dot at every point, and write x below each.
    """
    xs = sorted({x for points in series.values() for x, _ in points})
    low, high = ends or ((xs[0], xs[-1]) if xs else (0.0, 1.0))
    span = (high - low) or 1.0
    parts = _grid(across)
    if is_marked:
        parts += [_tick((x - low) / span, f"{x:g}") for x in xs]
    for place, (name, points) in enumerate(series.items()):
        colour = _colour(name, place, colours or {})
        at = [_place((x - low) / span, y) for x, y in points]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in at)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        if is_marked:
            parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.6" fill="{colour}"/>' for a, b in at]
    parts += _legend(series, colours or {}, shown or {})
    return _page(parts)


def _place(x: float, y: float) -> tuple[float, float]:
    """Turn 0..1 on both axes into SVG pixels."""
    return MARGIN + x * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - y * (HEIGHT - 2 * MARGIN)


def _colour(name: str, place: int, colours: Mapping[str, str]) -> str:
    """Return the colour of the line at a place."""
    return colours.get(name, COLOURS[place % len(COLOURS)])


def _legend(series: Series, colours: Mapping[str, str], shown: Mapping[str, float]) -> list[str]:
    """Return each line's name and a number, beside each other while there is room."""
    parts = []
    x, y = MARGIN, 14
    for place, (name, points) in enumerate(series.items()):
        value = shown.get(name, points[-1][1] if points else 0.0)
        text = f"{name} {value:.3f}"
        width = _LETTER * len(text) + 18
        if x > MARGIN and x + width > WIDTH:
            x, y = MARGIN, y + 15
        parts.append(f'<text x="{x}" y="{y}" fill="{_colour(name, place, colours)}">{escape(text)}</text>')
        x += width
    return parts


def _tick(x: float, text: str) -> str:
    """Return a number below the axis."""
    return (
        f'<text x="{_place(x, 0)[0]:.1f}" y="{HEIGHT - 26}" text-anchor="middle" fill="#444444">{text}</text>'
    )


def _grid(across: str) -> list[str]:
    """Return lines at every 0.2 with their labels, and what is across."""
    parts = []
    for fifth in range(6):
        (x0, y), (x1, _) = _place(0, fifth / 5), _place(1, fifth / 5)
        parts.append(f'<line x1="{x0}" y1="{y}" x2="{x1}" y2="{y}" stroke="#dddddd"/>')
        parts.append(f'<text x="8" y="{y + 4}" fill="#444444">{fifth / 5:.1f}</text>')
    parts.append(
        f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - 8}" text-anchor="end" fill="#444444">{escape(across)}</text>'
    )
    return parts


def _page(parts: list[str]) -> str:
    """Return the whole SVG."""
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', *parts, "</svg>\n"])

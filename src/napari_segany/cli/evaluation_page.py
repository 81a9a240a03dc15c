"""`segany evaluate --report`: everything that a model can do, measured part by part, as a page with pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from napari_segany.train.assessment import Scope


@dataclass(frozen=True, slots=True)
class Asked:
    """What of the evaluation was asked for; None as it is made to."""

    parts: str | None
    data: Path | None
    scenes: int | None
    clips: int
    most_objects: int | None
    corrections: int
    seed: int

    def scope(self) -> Scope:
        """Return it as the evaluation takes it."""
        from napari_segany.train.assessment import PARTS, Scope

        given: dict[str, Any] = {"clips": self.clips, "corrections": self.corrections, "seed": self.seed}
        if self.scenes is not None:
            given |= {"scenes": self.scenes, "thin": self.scenes, "nested": self.scenes}
        if self.most_objects is not None:
            given |= {"most_objects": self.most_objects, "most_followed": self.most_objects}
        parts = PARTS if self.parts is None else tuple(self.parts.split(","))
        return Scope(parts=parts, data=self.data, **given)


def write_page(
    model: str,
    folder: Path,
    *,
    asked: Asked,
    against: str | None,
    as_json: bool,
    device: str,
    precision: str,
) -> None:
    """Measure one model or two, write numbers, pictures and the page, and say where it is."""
    from napari_segany.predict.loading import load_model
    from napari_segany.train.assessment import RESULT, assess
    from napari_segany.train.card import write_card_of
    from napari_segany.train.report import write_report

    scope = asked.scope()
    wholes: list[tuple[str, dict[str, Any]]] = []
    for at, name in (("", model), *((("against", against),) if against is not None else ())):
        loaded = load_model(name, device=device, precision=precision)
        wholes.append((at, assess(loaded, folder / at, scope, progress=_show_progress)))
    typer.echo(err=True)
    page = write_report(folder, wholes)
    card = folder / "card.md"
    other = wholes[1][1] if against is not None else None
    has_card = write_card_of(card, model, whole=wholes[0][1], other=other)
    if as_json:
        both = wholes[0][1] if other is None else {"model": wholes[0][1], "against": other}
        typer.echo(json.dumps(both))
        return
    typer.echo(f"page:    {page.resolve()}\nnumbers: {(folder / RESULT).resolve()}")
    if has_card:
        typer.echo(f"card:    {card.resolve()}")


def _show_progress(part: str, done: int, name: str) -> None:
    """Rewrite one line of the terminal."""
    typer.echo(f"\r{part}: {done}, last {name:<40.40}", err=True, nl=False)

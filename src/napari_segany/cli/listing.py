"""`segany models`: what loads by name, and what of it is on this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from napari_segany.models.registry import ModelSpec


def models(
    pattern: Annotated[str, typer.Argument(help="Names to list, as a shell pattern.")] = "*",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """List the models that load by name, their licence and size, and whether their weights are here."""
    from napari_segany.models.registry import list_models

    rows = [_row(spec) for spec in list_models(pattern)]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        typer.echo(f"no model matches {pattern!r}; `segany models` lists them all")
        return
    typer.echo(_table(rows))
    typer.echo("\nWeights that are not here are downloaded once, when a model is first loaded.")


def _row(spec: ModelSpec) -> dict[str, object]:
    """Return one model as plain values."""
    from napari_segany.models.download import local_weights

    path = local_weights(spec)
    return {
        "name": spec.name,
        "title": spec.title,
        "licence": spec.licence,
        "parameters": spec.n_parameters,
        "bytes": path.stat().st_size if path else spec.size_bytes,
        "bundled": spec.is_bundled,
        "path": str(path) if path else None,
        "note": spec.note,
    }


def _table(rows: list[dict[str, object]]) -> str:
    """Return rows as aligned text under a heading."""
    lines = [("name", "parameters", "file", "licence", "weights")]
    for row in rows:
        here = "bundled" if row["bundled"] and row["path"] else "here" if row["path"] else "to download"
        if row["bundled"] and not row["path"]:
            here = "missing"
        lines.append(
            (
                str(row["name"]),
                _in_millions(row["parameters"]),
                _in_mb(row["bytes"]),
                str(row["licence"]),
                here,
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _in_millions(count: object) -> str:
    return f"{count / 1e6:.1f} M" if isinstance(count, int) else "-"


def _in_mb(size: object) -> str:
    return f"{size / 1e6:.1f} MB" if isinstance(size, int) else "-"

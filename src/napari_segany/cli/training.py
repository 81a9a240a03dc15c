"""`segany scenes`: thin; the work is in `napari_segany.train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def scenes(
    *,
    out: Annotated[Path, typer.Option(help="Folder to write images/ and labels/ into.")],
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same scenes.")] = 0,
    size: Annotated[int, typer.Option(min=32, help="Side in pixels.")] = 256,
) -> None:
    """Write procedural microscopy scenes with exact masks, to train or evaluate on."""
    from napari_segany.train.scenes import export_scenes

    export_scenes(out, count=count, seed=seed, size=(size, size))
    typer.echo(f"{count} scenes: {out.resolve()}")

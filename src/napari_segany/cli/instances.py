"""`segany instances`: every object of an image, without prompts, to a label image or a TIFF."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MODEL = "microsam_vit_b_lm"


def instances(
    image: Annotated[Path, typer.Argument(help="OME-Zarr, TIFF, PNG or JPEG; of a stack, every plane.")],
    *,
    out: Annotated[Path, typer.Option(help="Labels to make, such as cells.ome.zarr or cells.tif.")],
    model: Annotated[
        str,
        typer.Option(
            help="One that finds objects by itself (`semantic-nano`, micro-sam's), or any with --levels."
        ),
    ] = MODEL,
    levels: Annotated[
        str | None,
        typer.Option(
            help="Look for these steps of the ladder, '3,4', 1 (finest) to 6, with a grid of clicks."
        ),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Look only for what has one of these names, 'nucleus,cell'.")
    ] = None,
    centre: Annotated[
        float | None, typer.Option(help="Seeds lie below this distance to a centre; lower parts more.")
    ] = None,
    boundary: Annotated[
        float | None, typer.Option(help="Seeds lie below this boundary distance; lower parts more.")
    ] = None,
    smoothing: Annotated[float | None, typer.Option(help="Smooths the distances first, in pixels.")] = None,
    min_size: Annotated[int | None, typer.Option(help="Drop objects of fewer pixels.")] = None,
    window: Annotated[
        str | None, typer.Option(help="low,high: the raw values that become black and white.")
    ] = None,
    channel: Annotated[int | None, typer.Option(help="One channel, from 0; all of them if left out.")] = None,
    plane: Annotated[
        str | None, typer.Option(help="Only these planes of a stack, such as T=0 or T=0,Z=12.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, reproducible, bfloat16 or float16.")] = "auto",
    engine: Annotated[
        str, typer.Option(help="torch, openvino (CPU) or compile: what encodes images.")
    ] = "torch",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace labels made by this tool.")] = False,
) -> None:
    """Find every object of an image without prompts, and write them as labels."""
    from .automatic import AutomaticTask, run
    from .inline import parse_levels, parse_plane, parse_window

    given = {"centre": centre, "boundary": boundary, "smoothing": smoothing, "min_size": min_size}
    task = AutomaticTask(
        image=image,
        out=out,
        model=model,
        settings={name: value for name, value in given.items() if value is not None},
        levels=None if levels is None else parse_levels(levels),
        classes=None if classes is None else tuple(name.strip() for name in classes.split(",")),
        device=device,
        precision=precision,
        engine=engine,
        window=parse_window(window) if window is not None else None,
        channel=channel,
        plane=parse_plane(plane) if plane is not None else {},
        overwrite=overwrite,
    )
    counts = run(task)
    among = f" on {len(counts)} planes" if len(counts) > 1 else ""
    typer.echo(f"{sum(counts)} objects{among}\nlabels: {out}")

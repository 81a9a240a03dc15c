"""`segany segment`: one object per prompt, from an image file to an OME-Zarr label image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def segment(
    image: Annotated[Path, typer.Argument(help="OME-Zarr, TIFF, PNG or JPEG.")],
    *,
    out: Annotated[Path, typer.Option(help="Label image to make, such as cells.ome.zarr.")],
    points: Annotated[
        list[str] | None,
        typer.Option(help="'row,col row,col,-; row,col' (objects part at ;) or a file. May be repeated."),
    ] = None,
    boxes: Annotated[
        list[str] | None, typer.Option(help="'row0,col0,row1,col1; ...' or a file. May be repeated.")
    ] = None,
    model: Annotated[str, typer.Option(help="A name from `segany models`, or a weights file.")] = "sam2-nano",
    overlay: Annotated[
        Path | None, typer.Option(help="Picture of the result to make, such as cells.png.")
    ] = None,
    window: Annotated[
        str | None, typer.Option(help="low,high: the raw values that become black and white.")
    ] = None,
    channel: Annotated[int | None, typer.Option(help="One channel, from 0; all of them if left out.")] = None,
    plane: Annotated[str | None, typer.Option(help="The plane of a stack, such as T=0,Z=12.")] = None,
    fine: Annotated[
        bool | None,
        typer.Option(
            "--fine/--no-fine", help="Fine boundaries; left out, as the model is made (HQ-SAM draws them)."
        ),
    ] = None,
    level: Annotated[
        int | None,
        typer.Option(
            min=1, max=6, help="Granularity, 1 (finest) to 6 (coarsest); the best score if left out."
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(help="Names to tell objects apart by, 'nucleus,cell'; the model's own if left out."),
    ] = None,
    features_cache: Annotated[
        bool,
        typer.Option(
            "--features-cache/--no-features-cache",
            help="Keep on disk what the encoder saw, for the next run.",
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, reproducible, bfloat16 or float16.")] = "auto",
    engine: Annotated[
        str, typer.Option(help="torch, openvino (CPU) or compile: what encodes images.")
    ] = "torch",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace labels made by this tool.")] = False,
) -> None:
    """Segment one object per prompt and write an OME-Zarr label image."""
    from .inline import parse_plane, parse_window
    from .task import Task, run

    task = Task(
        image=image,
        out=out,
        points=tuple(points or ()),
        boxes=tuple(boxes or ()),
        overlay=overlay,
        model=model,
        device=device,
        precision=precision,
        engine=engine,
        window=parse_window(window) if window is not None else None,
        channel=channel,
        plane=parse_plane(plane) if plane is not None else None,
        fine=fine,
        level=level,
        classes=None if classes is None else tuple(name.strip() for name in classes.split(",")),
        is_keeping_features=features_cache,
        overwrite=overwrite,
    )
    made, refused = run(task)
    for one in made:
        named = f", {one.name}" if one.name else ""
        typer.echo(f"object {one.label}: {one.area} pixels, score {one.score:.2f}{named}")
    for line in refused:
        typer.echo(f"warning: {line}", err=True)
    typer.echo(f"labels: {out}" + (f"\noverlay: {overlay}" if overlay is not None else ""))
    if refused:
        raise typer.Exit(1)

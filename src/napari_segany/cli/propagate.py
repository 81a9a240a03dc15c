"""`segany propagate`: objects prompted on some frames of a stack, followed through all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

_INTERRUPTED = 130  # what shells call a process that Ctrl+C ended


def propagate(
    stack: Annotated[Path, typer.Argument(help="OME-Zarr or TIFF with an axis Z or T.")],
    *,
    prompts: Annotated[
        Path,
        typer.Option(help="Saved state, napari's .csv, .geojson, or labels of a frame (TIFF, OME-Zarr)."),
    ],
    axis: Annotated[
        Literal["z", "t"] | None,
        typer.Option(case_sensitive=False, help="What frames follow each other on; t, else z, if left out."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Label image to make, such as cells.ome.zarr.")],
    model: Annotated[str, typer.Option(help="A name from `segany models`, or a weights file.")] = "sam2-nano",
    memory: Annotated[
        int | None, typer.Option(min=1, help="Frames that are remembered; as the model was made if left out.")
    ] = None,
    frame: Annotated[
        int | None, typer.Option(min=0, help="The frame of prompts that name none, from 0.")
    ] = None,
    range: Annotated[
        str | None, typer.Option(help="first:end, only these frames, such as 10:40, 10: or :40.")
    ] = None,
    direction: Annotated[
        Literal["forward", "backward", "both"], typer.Option(help="Where to go from the prompts.")
    ] = "both",
    fixed: Annotated[
        str | None, typer.Option(help="Keep to one place on other axes, such as t=3; else each in turn.")
    ] = None,
    channel: Annotated[
        list[int] | None, typer.Option(help="One channel, from 0; repeated, up to three that become colours.")
    ] = None,
    window: Annotated[
        str | None, typer.Option(help="low,high: the raw values that become black and white.")
    ] = None,
    axes: Annotated[
        str | None, typer.Option(help="What the axes are, such as TYX, where the file says it wrongly.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, reproducible, bfloat16 or float16.")] = "auto",
    engine: Annotated[
        str, typer.Option(help="torch, openvino (CPU) or compile: what encodes images.")
    ] = "torch",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the labels in --out, if there are any.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace labels made by this tool.")] = False,
) -> None:
    """Follow objects through a z-stack or a movie, from prompts on any of its frames."""
    from .inline import parse_plane, parse_range, parse_window
    from .stack_task import StackTask, run

    task = StackTask(
        stack=stack,
        prompts=prompts,
        out=out,
        axis=axis,
        model=model,
        memory=memory,
        frame=frame,
        frames=parse_range(range) if range is not None else slice(None),
        direction=direction,
        fixed=parse_plane(fixed) if fixed is not None else {},
        channels=tuple(channel or ()),
        window=parse_window(window) if window is not None else None,
        axes=axes,
        device=device,
        precision=precision,
        engine=engine,
        is_resumed=resume,
        overwrite=overwrite,
    )
    instead = " instead of --overwrite" if overwrite else ""
    way_on = f"stopped; the same command with --resume{instead} goes on from here"
    try:
        outcome = run(task)
    except KeyboardInterrupt:  # the second one, or before the first frame
        typer.echo(way_on, err=True)
        raise typer.Exit(_INTERRUPTED) from None
    for line in outcome.lines:
        typer.echo(line)
    for line in outcome.warnings:
        typer.echo(f"warning: {line}", err=True)
    if outcome.is_stopped:
        typer.echo(way_on, err=True)
        raise typer.Exit(_INTERRUPTED)
    typer.echo(f"labels: {out}")
    if outcome.warnings:
        raise typer.Exit(1)

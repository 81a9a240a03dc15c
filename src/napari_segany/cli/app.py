"""The `segany` application: its commands, and what a person sees when one fails."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from napari_segany import __version__
from napari_segany.core.errors import SegAnyError

from .demo import demo
from .doctor import doctor
from .download import download
from .instances import instances
from .listing import models
from .propagate import propagate
from .segment import segment
from .training import evaluate, scenes, train

FAILED = 2
"""Exit code of a command that could not do what was asked."""

app = typer.Typer(
    name="segany",
    help="Segment Anything for microscopists: click a cell, get its mask.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _command in (segment, instances, propagate, models, download, doctor, demo, scenes, train, evaluate):
    app.command()(_command)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"segany {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop."),
    ] = False,
    _debug: Annotated[
        bool,
        typer.Option("--debug", help="Log everything, and show tracebacks; may stand anywhere in the line."),
    ] = False,
) -> None:
    """Segment Anything for microscopists: click a cell, get its mask."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 1 something is missing, 2 could not be done."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    is_debug = "--debug" in given
    logging.basicConfig(
        level=logging.DEBUG if is_debug else logging.WARNING,
        format="%(levelname)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        app([word for word in given if word != "--debug"], prog_name="segany")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except (SegAnyError, OSError) as error:
        if is_debug:
            raise
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        return FAILED
    return 0

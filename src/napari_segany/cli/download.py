"""`segany download`: weights brought before they are needed, for a machine that will be offline."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .listing import licence_of, size_text


def download(
    names: Annotated[
        list[str], typer.Argument(help="Names from `segany models`, or shell patterns of them.")
    ],
) -> None:
    """Download the weights of models into the cache, checked and ready; what is there already stays as it is."""
    from napari_segany.models.download import find_decoder, find_weights
    from napari_segany.models.registry import list_models, spec_of

    specs = {spec.name: spec for name in names for spec in list_models(name) or [spec_of(name)]}
    for spec in specs.values():
        line = ProgressLine()
        if not spec.is_bundled:
            note = f". {spec.licence_note}" if spec.licence_note else ""
            typer.echo(f"{spec.name} ({size_text(spec)}): licence {licence_of(spec)}{note}", err=True)
        paths = [find_weights(spec, progress=line.show), find_decoder(spec, progress=line.show)]
        line.end()
        for path in filter(None, paths):
            typer.echo(f"{spec.name}: {Path(path)}")


class ProgressLine:
    """How far a download is, on one line of a terminal; nothing where standard error is no terminal."""

    def __init__(self) -> None:
        self._shown = 0

    def show(self, done: int, total: int, message: str) -> None:
        """Show it in place of what was shown last."""
        if not sys.stderr.isatty() or not total:  # without a total: a licence, which was printed, or waiting
            return
        text = f"{message}: {done / 1e6:.0f} of {total / 1e6:.0f} MB"
        sys.stderr.write(f"\r{text.ljust(self._shown)}")
        sys.stderr.flush()
        self._shown = len(text)

    def end(self) -> None:
        """Start a new line after what was shown."""
        if self._shown:
            sys.stderr.write("\n")

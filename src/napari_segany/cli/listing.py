"""`segany models`: what loads by name, under which licence, and what of it is on this machine."""

from __future__ import annotations

import json
from textwrap import fill
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from napari_segany.models.registry import ModelSpec, RemoteFile

_BYTES_PER_PARAMETER = 4  # of the published files
_WIDTH = 100  # columns of a detail view


def models(
    pattern: Annotated[
        str, typer.Argument(help="Names to list, as a shell pattern; one name shows all about it.")
    ] = "*",
    licences: Annotated[
        bool, typer.Option("--licences", help="List licences and what restricts use.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """List the models that load by name: licence, size, where the weights are, and what the model can do."""
    from napari_segany.models.registry import list_models

    specs = list_models(pattern)
    if as_json:
        typer.echo(json.dumps([_row(spec) for spec in specs], indent=2))
    elif not specs:
        typer.echo(f"no model matches {pattern!r}; `segany models` lists them all")
    elif licences:
        typer.echo(_licences(specs))
    elif [spec.name for spec in specs] == [pattern]:
        typer.echo(_details(specs[0]))
    else:
        typer.echo(_table(specs))


def licence_of(spec: ModelSpec) -> str:
    """Return a model's licence as people read it."""
    from napari_segany.models.registry import NOT_STATED

    return "not stated" if spec.licence == NOT_STATED else spec.licence


def size_of(spec: ModelSpec) -> tuple[int | None, bool]:
    """Return (bytes, whether they are a fact): of the files that are here, else of those to download."""
    from napari_segany.models.download import local_decoder, local_weights
    from napari_segany.models.registry import DECODER_PARAMETERS

    here, remote = local_weights(spec), [one for one in (spec.remote, spec.decoder) if one is not None]
    if here is not None:
        decoder = local_decoder(spec)
        return here.stat().st_size + (decoder.stat().st_size if decoder else 0), True
    if remote and all(one.size_bytes is not None for one in remote):
        return sum(one.size_bytes or 0 for one in remote), True
    if spec.n_parameters is None:
        return None, False
    count = spec.n_parameters + (DECODER_PARAMETERS if spec.decoder is not None else 0)
    return count * _BYTES_PER_PARAMETER, False


def size_text(spec: ModelSpec) -> str:
    """Return a model's size for people; "~" before an estimate."""
    size, is_fact = size_of(spec)
    return "-" if size is None else f"{'' if is_fact else '~'}{size / 1e6:.0f} MB"


def _where(spec: ModelSpec) -> str:
    """Return whether the weights are bundled, in the cache, or still to download."""
    from napari_segany.models.download import local_decoder, local_weights

    path = local_weights(spec)
    if spec.is_bundled:
        return "bundled" if path else "missing"
    if path and spec.decoder is not None and local_decoder(spec) is None:
        return "decoder to download"
    return "in cache" if path else "to download"


def _row(spec: ModelSpec) -> dict[str, object]:
    """Return one model as plain values."""
    from napari_segany.models.download import local_decoder, local_weights

    path, decoder = local_weights(spec), local_decoder(spec)
    size, _is_fact = size_of(spec)
    return {
        "name": spec.name,
        "title": spec.title,
        "licence": spec.licence,
        "licence_note": spec.licence_note,
        "parameters": spec.n_parameters,
        "bytes": size,
        "bundled": spec.is_bundled,
        "weights": _where(spec),
        "fine_boundaries": spec.has_fine,
        "automatic": spec.decoder is not None,
        "url": spec.url,
        "hash": ":".join(spec.known_hash) if spec.known_hash else None,
        "path": str(path) if path else None,
        "decoder_path": str(decoder) if decoder else None,
        "note": spec.note,
    }


def _table(specs: list[ModelSpec]) -> str:
    """Return models as aligned text under a heading."""
    lines: list[tuple[str, ...]] = [("name", "title", "size", "licence", "weights", "fine", "automatic")]
    for spec in specs:
        marks = ("yes" if spec.has_fine else "", "yes" if spec.decoder is not None else "")
        lines.append((spec.name, spec.title, size_text(spec), licence_of(spec), _where(spec), *marks))
    return (
        f"{_aligned(lines)}\n\n"
        "fine: draws finer boundaries. automatic: has a decoder that finds every object by itself.\n"
        "What is to download is downloaded once, when the model is first loaded or by `segany download NAME`;\n"
        "`segany models NAME` shows all about one model, `segany models --licences` what restricts use."
    )


def _aligned(lines: list[tuple[str, ...]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _licences(specs: list[ModelSpec]) -> str:
    """Return every licence with the models under it, and what restricts their use."""
    groups: dict[tuple[str, str], list[str]] = {}
    for spec in specs:
        groups.setdefault((licence_of(spec), spec.licence_note), []).append(spec.name)
    return "\n\n".join(
        "\n".join(
            [
                licence,
                *([fill(note, _WIDTH, initial_indent="  ", subsequent_indent="  ")] if note else []),
                *(f"    {name}" for name in names),
            ]
        )
        for (licence, note), names in groups.items()
    )


def _details(spec: ModelSpec) -> str:
    """Return all about one model, a fact a line."""
    from napari_segany.models.download import local_decoder, local_weights

    facts = {
        "model": f"{spec.name}: {spec.title}",
        "about": spec.note,
        "licence": f"{licence_of(spec)}. {spec.licence_note}" if spec.licence_note else licence_of(spec),
        "parameters": f"{spec.n_parameters / 1e6:.1f} M" if spec.n_parameters else "-",
        "sees": f"{spec.image_size} x {spec.image_size} pixels",
        "fine boundaries": "yes" if spec.has_fine else "no",
        "automatic": "yes, with its decoder" if spec.decoder is not None else "no decoder",
        "size": size_text(spec),
        "weights": _where(spec),
    }
    if spec.remote is None:
        facts["path"] = str(local_weights(spec) or "-")
    else:
        facts |= _file_facts(spec.remote, here=str(local_weights(spec) or ""))
    if spec.decoder is not None:
        second = _file_facts(spec.decoder, here=str(local_decoder(spec) or ""))
        facts |= {f"decoder {name}": fact for name, fact in second.items()}
    width = max(map(len, facts)) + 2
    return "\n".join(f"{name.ljust(width)}{fact}" for name, fact in facts.items())


def _file_facts(remote: RemoteFile, *, here: str) -> dict[str, str]:
    """Return where a file comes from, its hash, and where it is or can be copied to by hand."""
    from napari_segany.models.download import weights_dir

    return {
        "url": remote.url,
        "hash": " ".join(remote.known_hash) if remote.known_hash else "nobody published one",
        "path": here or f"{weights_dir() / remote.file} (not there yet)",
    }

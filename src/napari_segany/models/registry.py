"""The models that load by name: listed by pattern, found by name. Imports no torch."""

from __future__ import annotations

from difflib import get_close_matches
from fnmatch import fnmatchcase

from napari_segany.core.errors import UnknownModelError

from .rows import DECODER_PARAMETERS, ROWS
from .spec import NOT_STATED, Layout, ModelSpec, RemoteFile

__all__ = ["DECODER_PARAMETERS", "NOT_STATED", "Layout", "ModelSpec", "RemoteFile", "list_models", "spec_of"]

_SPECS: dict[str, ModelSpec] = {spec.name: spec for spec in ROWS}


def list_models(pattern: str = "*") -> list[ModelSpec]:
    """Return the rows whose name matches a shell pattern ("sam2.1_*"), the bundled ones first."""
    return [spec for name, spec in _SPECS.items() if fnmatchcase(name, pattern)]


def spec_of(name: str) -> ModelSpec:
    """Return the row of a model name.

    Raises
    ------
    UnknownModelError
        If no row has that name.
    """
    if name in _SPECS:
        return _SPECS[name]
    close = get_close_matches(name, _SPECS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"known names: {', '.join(_SPECS)}."
    raise UnknownModelError(
        f"no model is called {name!r}; {hint} The path of a weights file (.safetensors, .pt) works too."
    )

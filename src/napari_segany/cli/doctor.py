"""`segany doctor`: what this machine has, what it would be used for, what is missing and the exact fix."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from napari_segany import __version__
from napari_segany.core.errors import SegAnyError

State = Literal["ok", "missing", "optional"]

_MARKS = {"ok": "ok      ", "missing": "MISSING ", "optional": "optional"}
_QT_BINDINGS = ("PySide6", "PyQt6")
_INSTALL_WINDOW = 'pip install "napari-segany[all]"'
# Import name and distribution of what the image, label and model code cannot do without.
_LIBRARIES = {
    "numpy": "numpy",
    "scipy": "scipy",
    "skimage": "scikit-image",
    "safetensors": "safetensors",
    "tifffile": "tifffile",
    "zarr": "zarr",
    "yaozarrs": "yaozarrs",
    "pydantic": "pydantic",
    "psygnal": "psygnal",
    "requests": "requests",
    "xxhash": "xxhash",
    "platformdirs": "platformdirs",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: `missing` stops everything, `optional` what `value` says."""

    name: str
    state: State
    value: str
    fix: str = ""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    clear_features: Annotated[
        bool,
        typer.Option("--clear-features", help="First remove what is kept of images that were looked at."),
    ] = False,
) -> None:
    """Say what this machine has, what is missing and the exact fix; exit code 1 if it is needed."""
    if clear_features:
        from .task import features_store

        store = features_store()
        typer.echo(f"removed {store.nbytes / 1e6:.1f} MB of features from {store.folder}", err=as_json)
        store.clear()
    findings = examine()
    is_healthy = all(finding.state != "missing" for finding in findings)
    if as_json:
        rows = [asdict(finding) for finding in findings]
        typer.echo(json.dumps({"healthy": is_healthy, "findings": rows}, indent=2))
    else:
        typer.echo(_report(findings))
        typer.echo("\nready" if is_healthy else "\nnot ready: see the fixes above")
    if not is_healthy:
        raise typer.Exit(1)


def examine() -> list[Finding]:
    """Return all findings; a check that breaks down is itself a finding, and the rest go on."""
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("package", _package),
        ("libraries", _libraries),
        ("torch", _torch),
        ("weights", _weights),
        ("features", _features),
        ("napari", _napari),
        ("plugin", _plugin),
    ]
    found: list[Finding] = []
    for name, check in checks:
        try:
            found.extend(check())
        except Exception as error:  # a doctor reports what is broken, whatever it is
            found.append(
                Finding(
                    name, "missing", f"{type(error).__name__}: {error}", "reinstall the package named here"
                )
            )
    return found


def _report(findings: list[Finding]) -> str:
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{_MARKS[finding.state]}  {finding.name.ljust(width)}  {finding.value}")
        if finding.fix:
            lines.append(f"{'':10}{'':{width}}  fix: {finding.fix}")
    return "\n".join(lines)


def _package() -> Iterator[Finding]:
    is_new_enough = sys.version_info >= (3, 11)
    yield Finding(
        "python",
        "ok" if is_new_enough else "missing",
        f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "" if is_new_enough else "install Python 3.11 or newer",
    )
    yield Finding("napari-segany", "ok", f"{__version__} in {Path(__file__).parents[1]}")


def _libraries() -> Iterator[Finding]:
    absent = [distribution for name, distribution in _LIBRARIES.items() if find_spec(name) is None]
    if absent:
        yield Finding(
            "libraries", "missing", f"without {', '.join(absent)}", f"pip install {' '.join(absent)}"
        )
    else:
        yield Finding(
            "libraries", "ok", ", ".join(f"{d} {_version(d)}" for d in ("numpy", "scikit-image", "zarr"))
        )


def _torch() -> Iterator[Finding]:
    if find_spec("torch") is None:
        yield Finding("torch", "missing", "not installed", "pip install torch")
        return
    yield Finding("torch", "ok", _version("torch"))
    from napari_segany.predict.precision import cpu_has_bfloat16, place

    try:
        placement = place()
    except SegAnyError as error:
        yield Finding("device", "missing", str(error), "pip install --force-reinstall torch")
        return
    yield Finding("device", "ok", placement.title)
    speed = "has fast bfloat16 (AMX or AVX512-BF16)" if cpu_has_bfloat16() else "no fast bfloat16: float32"
    yield Finding("cpu", "ok", speed)
    if find_spec("openvino") is not None:
        yield Finding("openvino", "ok", f"{_version('openvino')}, for --engine openvino")
    else:
        what = "not installed: images are encoded by PyTorch, the rest works"
        yield Finding("openvino", "optional", what, 'pip install "napari-segany[openvino]"')


def _weights() -> Iterator[Finding]:
    from napari_segany.models.download import CACHE_VARIABLE, is_offline, local_weights, weights_dir
    from napari_segany.models.registry import list_models

    for spec in list_models():
        if spec.is_bundled:
            path = local_weights(spec)
            if path is None:
                yield Finding(
                    spec.name,
                    "missing",
                    "its weights did not come with the package",
                    "reinstall napari-segany",
                )
            else:
                yield Finding(spec.name, "ok", f"{path.stat().st_size / 1e6:.1f} MB, bundled")
    folder = weights_dir()
    files = (
        [path for path in folder.glob("*") if path.suffix in {".pt", ".pth", ".safetensors"}]
        if folder.is_dir()
        else []
    )
    what = f"{folder}, {len(files)} models" + (", downloads switched off" if is_offline() else "")
    parent = next(path for path in (folder, *folder.parents) if path.exists())
    if os.access(parent, os.W_OK):
        yield Finding("cache", "ok", what)
    else:
        fix = f"let yourself write to {parent}, or set {CACHE_VARIABLE} to a folder that you may write to"
        yield Finding("cache", "optional", f"{what}, not writable: no model can be downloaded", fix)


def _features() -> Iterator[Finding]:
    from napari_segany.io.features import DEFAULT_MAX_BYTES

    from .task import features_store

    store = features_store()
    what = f"{store.nbytes / 1e6:.1f} MB of {len(store)} images, at most {DEFAULT_MAX_BYTES / 1e9:.0f} GB"
    yield Finding(
        "features", "ok", f"{what}, in {store.folder}; `segany doctor --clear-features` removes them"
    )


def _napari() -> Iterator[Finding]:
    if find_spec("napari") is None:
        yield Finding("napari", "optional", "not installed: no window, the rest works", _INSTALL_WINDOW)
    else:
        yield Finding("napari", "ok", _version("napari"))
    bindings = [name for name in (*_QT_BINDINGS, "PyQt5", "PySide2") if find_spec(name)]
    if bindings:
        yield Finding("qt", "ok", f"{bindings[0]} {_version(bindings[0])}")
    else:
        yield Finding("qt", "optional", "no Qt binding: no window, the rest works", _INSTALL_WINDOW)
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        yield Finding(
            "display",
            "optional",
            "none: no window, the rest works",
            "xvfb-run -a napari, or log in with a screen",
        )


def _plugin() -> Iterator[Finding]:
    points = [
        point for point in metadata.entry_points(group="napari.manifest") if point.name == "napari-segany"
    ]
    manifest = Path(__file__).parents[1] / "napari.yaml"
    if not manifest.exists():
        yield Finding("plugin", "missing", f"there is no {manifest}", "reinstall napari-segany")
    elif not points:
        what = "napari does not find the plugin: the package runs from a source tree"
        yield Finding("plugin", "optional", what, "pip install -e . in the checkout")
    else:
        yield Finding("plugin", "ok", f"registered, {manifest.name} found")


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "of unknown version"

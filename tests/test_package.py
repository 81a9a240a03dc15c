"""The public surface: every listed name is there, and importing the package loads nothing heavy."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import napari_segany

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "napari", "qtpy", "PySide6", "PyQt6", "dask", "zarr", "scipy", "skimage"}


def _fresh(code: str) -> dict[str, object]:
    """Run code in a fresh interpreter that prints one JSON object, and return that."""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("name", napari_segany.__all__)
def test_every_listed_name_imports(name: str) -> None:
    value = getattr(napari_segany, name)
    assert value is not None
    if name != "__version__":
        home = import_module(f"napari_segany.{napari_segany._HOMES[name]}")
        assert getattr(home, name) is value


def test_all_and_homes_agree() -> None:
    assert set(napari_segany.__all__) == {*napari_segany._HOMES, "__version__"}
    assert set(napari_segany.__all__) <= set(dir(napari_segany))


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"public names: .*Prompt"):
        napari_segany.Promt  # noqa: B018


def test_import_is_light_and_fast() -> None:
    code = (
        "import json, sys, time\nstart = time.perf_counter()\nimport napari_segany\n"
        "took = time.perf_counter() - start\n"
        f"print(json.dumps({{'took': took, 'heavy': sorted({HEAVY!r} & set(sys.modules))}}))"
    )
    runs = [_fresh(code) for _ in range(3)]
    assert runs[0]["heavy"] == []
    assert min(float(str(run["took"])) for run in runs) < 0.3


def test_value_types_need_no_torch() -> None:
    code = (
        "import json, sys\nfrom napari_segany import Box, Points, Prompt, SegAnyError\n"
        f"print(json.dumps({{'heavy': sorted({HEAVY!r} & set(sys.modules))}}))"
    )
    assert _fresh(code)["heavy"] == []


def test_one_version_everywhere() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", napari_segany.__version__)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {napari_segany.__version__}" in changelog
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_constraints_pin_every_direct_dependency() -> None:
    tomllib = import_module("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(r for rows in project["optional-dependencies"].values() for r in rows),
    ]
    names = {re.split(r"[\[<>=! ]", r)[0].lower().replace("_", "-") for r in wanted} - {"napari-segany"}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert names <= {name.lower().replace("_", "-") for name in pinned}
    assert pinned["torch"] == "2.13.0"
    assert not [line for line in lines if "+" in line or "://" in line]  # no local builds, no index


def test_typed_marker_ships() -> None:
    assert (ROOT / "src" / "napari_segany" / "py.typed").exists()

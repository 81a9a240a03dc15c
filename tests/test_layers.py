"""Who may import whom: the layer table of docs/develop/architecture.md, read from the source with `ast`.

Every import counts, also inside a function, under `TYPE_CHECKING`, or by `import_module("a literal name")`.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "napari_segany"
SOURCE = Path(__file__).parents[1] / "src" / PACKAGE

_FOR_ALL = {"models.registry", "models.download"}  # what there is, what is here
_TORCH_FREE = ("spec", "rows", "semantic_rows", "cache", "locks", "transfer")
_ABOUT_MODELS = {*_FOR_ALL, *(f"models.{name}" for name in _TORCH_FREE)}
_MODELS = {"models", "models.convert", *_ABOUT_MODELS}
_FRONT = {"core", "io", "session", "predict", "jobs", "train", *_FOR_ALL}
MAY_IMPORT = {
    "core": {"core"},
    "io": {"core", "io"},
    "models.spec": {"core", "models.spec"},
    "models.semantic_rows": {"core", "models.spec"},
    "models.rows": {"core", "models.spec", "models.semantic_rows"},
    "models.registry": {"core", "models.spec", "models.rows", "models.registry"},
    "models.cache": {"core", "models.spec"},
    "models.locks": {"core"},
    "models.transfer": {"core", "models.spec", "models.cache"},
    "models.download": {
        "core",
        *_ABOUT_MODELS,
        "models.convert",
    },  # which it imports when it has a file to convert
    "models.convert": {"core", *_MODELS},
    "models": {"core", *_MODELS},
    "predict": {"core", *_MODELS, "predict"},
    "jobs": {"core", "io", *_MODELS, "predict", "jobs"},
    "train": {"core", "io", *_MODELS, "predict", "train"},
    "session": {"core", "session"},
    "ui": {*_FRONT, "ui"},
    "cli": {*_FRONT, "cli"},
    "": {*_FRONT, "cli"},  # the package itself only dispatches; __main__ starts the command line
}

EVERYWHERE = {"numpy", PACKAGE, *sys.stdlib_module_names}
_IMAGING = {"core.masks", "predict", "train", "jobs"}
THIRD_PARTY = {
    "torch": {"models", "predict", "train"},
    "safetensors": {"models", "train"},
    "openvino": {"predict"},  # an extra
    "requests": {"models"},
    "xxhash": {"models"},
    "platformdirs": {"models", "io"},
    "tqdm": {"models", "train", "jobs", "cli"},
    "zarr": {"io"},
    "yaozarrs": {"io"},
    "tifffile": {"io", "train"},
    "pydantic": {"io", "jobs"},
    "dask": {"io", "jobs"},
    "skimage": _IMAGING,
    "skimage.io": {*_IMAGING, "io"},
    "skimage.data": {*_IMAGING, "ui.hooks", "cli.demo"},  # the pictures that its wheel carries
    "scipy": _IMAGING,
    "psygnal": {"session", "ui"},
    "napari": {"ui"},
    "qtpy": {"ui"},
    "superqt": {"ui"},
    "magicgui": {"ui"},
    "typer": {"cli"},
}
BANNED_NAMES = {"utils", "util", "misc", "helpers", "helper", "manager", "managers", "common"}


@dataclass(frozen=True)
class Import:
    """One import: who imports, what is imported (dotted, absolute), on which line, and if only for typing."""

    importer: str
    target: str
    line: int
    typing_only: bool


def module_name(path: Path, source: Path) -> str:
    """Return `core.types` for core/types.py and `core` for core/__init__.py; `""` for the package itself."""
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_of(source: Path) -> dict[str, Path]:
    """Return every module of the tree, by its name inside the package."""
    return {module_name(path, source): path for path in sorted(source.rglob("*.py"))}


def imports_of(name: str, path: Path, modules: dict[str, Path]) -> Iterator[Import]:
    """Yield every import of one file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_lines = {
        node.lineno
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    for node in ast.walk(tree):
        for target in _targets(node, name=name, is_package=path.name == "__init__.py", modules=modules):
            yield Import(name, target, node.lineno, node.lineno in typing_lines)


def _targets(node: ast.AST, *, name: str, is_package: bool, modules: dict[str, Path]) -> list[str]:
    """Return the absolute dotted modules that one node imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = _absolute(node.module or "", level=node.level, name=name, is_package=is_package)
        inner = base.removeprefix(PACKAGE).lstrip(".")
        found = []
        for (
            alias
        ) in node.names:  # `from .core import types` imports a module, `from .core.types import Box` does not
            child = f"{inner}.{alias.name}".lstrip(".")
            is_module = base.startswith(PACKAGE) and child in modules
            found.append(f"{base}.{alias.name}" if is_module or not base.startswith(PACKAGE) else base)
        return found
    if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {
        "import_module",
        "__import__",
    }:
        first = node.args[0] if node.args else None
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            level = len(first.value) - len(first.value.lstrip("."))
            return [_absolute(first.value.lstrip("."), level=level, name=name, is_package=is_package)]
    return []


def _absolute(module: str, *, level: int, name: str, is_package: bool) -> str:
    """Resolve a relative import to a dotted name from the package down."""
    if level == 0:
        return module
    parts = [PACKAGE, *filter(None, name.split("."))]
    up = level - 1 if is_package else level
    return ".".join([*parts[: len(parts) - up], *filter(None, module.split("."))])


def layer_of(module: str, table: dict[str, set[str]] = MAY_IMPORT) -> str:
    """Return the row of the table that a module of the package falls under."""
    for row in sorted(table, key=len, reverse=True):
        if module == row or module.startswith(f"{row}."):
            return row
    return "" if module in {"", "__main__"} else module.split(".", maxsplit=1)[0]


def violations(source: Path, *, only: str | None = None) -> list[str]:
    """Return one line for every import that the table forbids, in the whole tree or in one module of it."""
    modules = modules_of(source)
    return [
        f"{name or PACKAGE}:{found.line} imports {found.target}: {reason}"
        for name, path in modules.items()
        if only in (None, name)
        for found in imports_of(name, path, modules)
        if (reason := _complaint(found))
    ]


def _complaint(found: Import) -> str:
    """Say why an import is forbidden; nothing if it is not."""
    layer = layer_of(found.importer)
    if layer not in MAY_IMPORT:
        return f"{layer!r} is no layer of the table"
    if found.target.startswith(f"{PACKAGE}."):
        target = layer_of(found.target.removeprefix(f"{PACKAGE}."))
        return "" if target in MAY_IMPORT[layer] else f"{layer or PACKAGE!r} may not import {target!r}"
    if found.target.split(".")[0] in EVERYWHERE:  # the bare package too: that is only its __version__
        return ""
    return _third_party_complaint(found, layer)


def _third_party_complaint(found: Import, layer: str) -> str:
    row = max((r for r in THIRD_PARTY if _is_under(found.target, r)), key=len, default=None)
    if row is None:
        return "not in the third-party table"
    is_allowed = any(_is_under(found.importer, place) for place in THIRD_PARTY[row])
    is_torch_free = found.target.split(".")[0] != "torch" or layer not in _ABOUT_MODELS
    if is_allowed and is_torch_free:
        return ""
    return f"{row} is allowed in {', '.join(sorted(THIRD_PARTY[row]))} only"


def _is_under(module: str, parent: str) -> bool:
    return module == parent or module.startswith(f"{parent}.")


def cycles(source: Path) -> list[list[str]]:
    """Return the import cycles between modules; imports for typing only do not count."""
    modules = modules_of(source)
    graph = {
        name: {
            target
            for found in imports_of(name, path, modules)
            if not found.typing_only and found.target.startswith(f"{PACKAGE}.")
            if (target := found.target.removeprefix(f"{PACKAGE}.")) in modules and target != name
        }
        for name, path in modules.items()
    }
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> None:
        if name in trail:
            found.append([*trail[trail.index(name) :], name])
            return
        if name in done:
            return
        for target in sorted(graph[name]):
            visit(target, [*trail, name])
        done.add(name)

    for name in graph:
        visit(name, [])
    return found


def test_only_allowed_imports() -> None:
    assert len(modules_of(SOURCE)) > 15  # the tree was found at all
    assert violations(SOURCE) == []


def test_no_import_cycles() -> None:
    assert cycles(SOURCE) == []


def test_no_vague_module_names() -> None:
    vague = [name for name in modules_of(SOURCE) if set(name.split(".")) & BANNED_NAMES]
    assert vague == []


@pytest.mark.parametrize(
    ("planted", "code"),
    [
        ("core/planted.py", "import torch"),
        ("core/planted.py", "from torch.nn import functional"),
        ("core/planted.py", "from ..io import planted_target"),
        ("io/planted.py", "from napari_segany.predict import image"),
        ("models/planted.py", "from ..predict import image"),
        ("models/planted.py", "from .. import predict"),
        ("models/registry.py", "import torch"),
        ("models/registry.py", "from .sam2 import build"),
        ("models/download.py", "import torch"),
        ("models/download.py", "from .weights import read_weights"),
        ("predict/planted.py", "from ..session.image import ImageSession"),
        ("session/planted.py", "import napari"),
        ("session/planted.py", "from ..predict.image import ImagePredictor"),
        ("session/planted.py", "import torch"),
        ("session/planted.py", "from qtpy.QtWidgets import QWidget"),
        ("train/planted.py", "import napari.layers"),
        ("ui/planted.py", "import torch"),
        ("ui/planted.py", "from ..models import weights"),
        ("ui/planted.py", "from ..cli import main"),
        ("jobs/planted.py", "from ..ui import hooks"),
        ("core/planted.py", "import a_library_nobody_agreed_on"),
        ("later/planted.py", "import numpy"),
    ],
)
@pytest.mark.parametrize("depth", ["module", "function", "typing", "method"])
def test_catches_a_planted_import(tmp_path: Path, planted: str, code: str, depth: str) -> None:
    tree = _copy_of_the_package(tmp_path)
    wraps = {
        "module": code,
        "function": f"def f():\n    {code}",
        "typing": f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {code}",
        "method": f"class A:\n    def f(self):\n        if True:\n            {code}",
    }
    path = tree / planted
    path.parent.mkdir(exist_ok=True)
    (tree / "io" / "planted_target.py").touch()
    for target in ("models/weights.py", "models/sam2.py"):
        (tree / target).touch()
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(f"{old}\n{wraps[depth]}\n", encoding="utf-8")
    line = path.read_text(encoding="utf-8").splitlines().index(wraps[depth].splitlines()[-1]) + 1
    complaints = violations(tree, only=module_name(path, tree))
    assert any(f":{line} imports" in complaint for complaint in complaints), complaints


def test_catches_an_import_by_literal_name(tmp_path: Path) -> None:
    tree = _copy_of_the_package(tmp_path)
    (tree / "core" / "planted.py").write_text('import importlib\nimportlib.import_module("torch.nn")\n')
    (tree / "session" / "planted.py").write_text(
        'from importlib import import_module\nimport_module("..predict", "x")\n'
    )
    assert {line.split(":")[0] for line in violations(tree)} >= {"core.planted", "session.planted"}


def test_catches_a_planted_cycle(tmp_path: Path) -> None:
    tree = _copy_of_the_package(tmp_path)
    (tree / "core" / "one.py").write_text("from .two import b\na = 1\n")
    (tree / "core" / "two.py").write_text("def b():\n    from .one import a\n    return a\n")
    assert ["core.one", "core.two", "core.one"] in cycles(tree)


def test_allows_what_the_table_allows(tmp_path: Path) -> None:
    tree = _copy_of_the_package(tmp_path)
    before = violations(tree)
    allowed = {
        "io/planted.py": "import zarr, tifffile\nfrom ..core.types import Box",
        "predict/planted.py": "import torch\nfrom ..models import registry",
        "ui/planted.py": "import napari, qtpy.QtCore\nfrom ..models.registry import list_models",
        "cli/planted.py": "import typer\nfrom napari_segany import __version__",
    }
    for name, code in allowed.items():
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text(f"{code}\n")
    assert violations(tree) == before


@pytest.mark.parametrize("module", sorted(_ABOUT_MODELS))
def test_what_is_known_about_models_needs_no_torch(module: str) -> None:
    code = (
        f"import sys, {PACKAGE}.{module}\nassert not {{'torch', 'zarr', 'dask', 'napari'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def _copy_of_the_package(tmp_path: Path) -> Path:
    tree = tmp_path / PACKAGE
    shutil.copytree(SOURCE, tree, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    return tree

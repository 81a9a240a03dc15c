"""The pages say what the program does: every command, option and key is on its page."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from napari_segany.cli.app import app
from napari_segany.models.registry import list_models

DOCS = Path(__file__).parents[1] / "docs"
README = DOCS.parent / "README.md"
COMMANDS = {info.callback.__name__: info.callback for info in app.registered_commands if info.callback}


def _page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_is_on_its_page(command: str) -> None:
    assert f"## segany {command}" in _page("cli.md")


def test_every_option_of_segment_is_on_its_page() -> None:
    options = [name for name in inspect.signature(COMMANDS["segment"]).parameters if name != "image"]
    missing = [name for name in options if f"--{name.replace('_', '-')}" not in _page("cli.md")]
    assert missing == []


@pytest.mark.parametrize(
    "page", ["../README.md", "cli.md", "install.md", "first_steps.md", "develop/testing.md"]
)
def test_every_option_that_is_named_exists(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    for line in re.findall(r"^segany (\w+)(.*)$", text, flags=re.MULTILINE):
        parameters = inspect.signature(COMMANDS[line[0]]).parameters
        for option in re.findall(r"--([a-z-]+)", line[1]):
            assert option.replace("-", "_") in parameters or f"as_{option}" in parameters, (page, line)


def test_every_key_and_mouse_gesture_is_on_its_page() -> None:
    pytest.importorskip("napari")
    from napari_segany.ui.shortcuts import MOUSE, SHORTCUTS

    page = _page("first_steps.md")
    rows = [(one.shown, one.title) for one in SHORTCUTS] + list(MOUSE)
    missing = [row for row in rows if f"| {row[0]} | {row[1]} |" not in page]
    assert missing == []


def test_the_readme_lists_the_families_of_models() -> None:
    text = README.read_text(encoding="utf-8")
    stems = {re.sub(r"_(tiny|small|base_plus|large)$", "", spec.name) for spec in list_models()}
    assert [stem for stem in stems if f"`{stem}" not in text] == []


def test_the_readme_notebook_runs_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python example is run with a model that answers at once, so that its names and calls stay true."""
    import numpy as np

    import napari_segany
    from napari_segany.core.intensity import Window
    from napari_segany.core.types import MaskPrediction, Prompt

    class Predictor:
        def __init__(self, model: object) -> None:
            assert model == "loaded"

        def embed(self, image: np.ndarray, *, window: Window | None = None) -> np.ndarray:
            return image

        def predict(self, features: np.ndarray, prompt: Prompt) -> MaskPrediction:
            assert prompt.points is not None
            row, col = prompt.points.coords[0].astype(int)
            mask = np.zeros((1, *features.shape[:2]), dtype=bool)
            mask[0, row, col] = True
            return MaskPrediction(mask, np.ones(1, np.float32), mask.astype(np.float32), np.array([4]))

    monkeypatch.setattr(napari_segany, "ImagePredictor", Predictor, raising=False)
    monkeypatch.setattr(napari_segany, "load_model", lambda name: "loaded", raising=False)
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    scope: dict[str, object] = {}
    exec(code, scope)
    answer = scope["answer"]
    assert isinstance(answer, MaskPrediction)
    assert answer.best.sum() == 1


def test_the_architecture_page_names_every_module() -> None:
    text = _page("develop/architecture.md")
    tree = text[text.index("## 2. Tree") : text.index("## 3. ")]
    built = "\n".join(line.split("later:")[0] for line in tree.splitlines())
    source = DOCS.parent / "src" / "napari_segany"
    names = {path.name for path in source.rglob("*.py") if path.name != "__init__.py"}
    assert sorted(name for name in names if not re.search(rf"\b{re.escape(name)}\b", built)) == []
    shown = set(re.findall(r"\b[a-z0-9_]+\.py\b", built)) - {"__init__.py", "__main__.py"}
    assert sorted(shown - names) == []

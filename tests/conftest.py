"""Settings that must hold before any Qt or napari import: no display, no canvas; and no traces in $HOME."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

_HAS_DISPLAY = sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))

if not _HAS_DISPLAY:
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
_scratch = tempfile.TemporaryDirectory(prefix="segany-tests-")
os.environ["NAPARI_CONFIG"] = str(Path(_scratch.name) / "settings.yaml")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes share two cores


def _canvas_can_draw() -> bool:
    """Return whether a real OpenGL canvas can be had: a display, and not Qt's offscreen platform."""
    return _HAS_DISPLAY and os.environ.get("QT_QPA_PLATFORM", "") not in {"offscreen", "minimal"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip, visibly, what needs a canvas where there is none; keep files together where processes share the work."""
    if hasattr(config, "workerinput"):  # of pytest-xdist; one process alone has the display
        for item in items:
            group = "canvas" if item.get_closest_marker("canvas") else item.path.name
            item.add_marker(pytest.mark.xdist_group(group))
    if _canvas_can_draw():
        return
    reason = "no display: needs a real OpenGL canvas; run `make test`, which gives one"
    for item in items:
        if item.get_closest_marker("canvas"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed PyTorch before a test and its fixtures: a network of random weights that fails must fail again."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)


def pytest_unconfigure() -> None:
    """Remove the scratch settings folder."""
    _scratch.cleanup()

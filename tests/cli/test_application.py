"""The command line as a whole: help, errors, doctor, models, scenes; what each command loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from skimage.io import imread

from napari_segany import __version__
from napari_segany.cli import app as app_module
from napari_segany.cli import doctor as doctor_module
from napari_segany.cli import main
from napari_segany.core.errors import WeightsError
from napari_segany.models.registry import list_models


def _fresh(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a fresh interpreter."""
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120, check=False)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"segany {__version__}\n"


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    commands = [info.callback.__name__ for info in app_module.app.registered_commands if info.callback]
    assert {"segment", "models", "doctor", "demo", "scenes"} <= set(commands)
    for command in commands:
        assert main([command, "--help"]) == 0
        assert "Usage" in capsys.readouterr().out


def test_a_wrong_command_line_is_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["segment"]) == 2
    assert main(["no-such-command"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom napari_segany.cli import main\ncode = main(['--help'])\n"
        "heavy = {'torch', 'napari', 'zarr', 'dask', 'skimage', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\nsys.exit(code)"
    )
    done = _fresh("-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("word", ["", "--debug"])
def test_errors_are_one_line_and_a_traceback_only_when_debugging(word: str) -> None:
    words = ["segment", "missing.tif", "--points", "1,2", "--out", "x.ome.zarr", *filter(None, [word])]
    done = _fresh("-m", "napari_segany", *words)
    assert ("Traceback" in done.stderr) == bool(word)
    assert "missing.tif" in done.stderr
    assert done.returncode == (1 if word else 2)
    if not word:
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("napari_segany.models.registry.list_models", broken)
    with pytest.raises(ZeroDivisionError):
        main(["models"])


def test_models_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [spec.name for spec in list_models()]
    assert rows[0]["name"] == "sam2-nano"
    assert rows[0]["bundled"] is True


def test_models_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "sam2.1_*"]) == 0
    printed = capsys.readouterr().out
    assert "sam2.1_hiera_tiny" in printed
    assert "sam2_hiera_tiny" not in printed
    assert main(["models", "nothing*"]) == 0
    assert "no model matches" in capsys.readouterr().out


def test_models_needs_no_torch() -> None:
    code = (
        "import sys\nfrom napari_segany.cli import main\ncode = main(['models'])\n"
        "assert not {'torch', 'napari', 'zarr'} & set(sys.modules)\nsys.exit(code)"
    )
    done = _fresh("-c", code)
    assert done.returncode == 0, done.stderr


def test_scenes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["scenes", "--count", "2", "--size", "64", "--seed", "3", "--out"]
    assert main([*words, str(tmp_path / "a")]) == 0
    assert main([*words, str(tmp_path / "b")]) == 0
    assert str(tmp_path / "a") in capsys.readouterr().out
    images = sorted((tmp_path / "a" / "images").iterdir())
    labels = sorted((tmp_path / "a" / "labels").iterdir())
    assert len(images) == len(labels) == 2
    for path in labels:
        drawn = imread(path)
        assert drawn.shape == (64, 64)
        assert drawn.max() >= 1
        np.testing.assert_array_equal(drawn, imread(tmp_path / "b" / "labels" / path.name))


def test_doctor_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    found = {row["name"]: row for row in report["findings"]}
    assert {
        "python",
        "libraries",
        "torch",
        "device",
        "cpu",
        "cache",
        "features",
        "napari",
        "qt",
        "plugin",
    } <= set(found)
    assert report["healthy"] == (code == 0)
    assert report["healthy"] == all(row["state"] != "missing" for row in report["findings"])
    assert all(row["fix"] for row in report["findings"] if row["state"] != "ok")
    assert found["torch"]["state"] == "ok"


def test_doctor_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    printed = capsys.readouterr().out
    assert "torch" in printed
    assert "Traceback" not in printed


def test_doctor_says_the_fix_for_a_missing_library(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = doctor_module.find_spec
    monkeypatch.setattr(doctor_module, "find_spec", lambda name: None if name == "zarr" else real(name))
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "pip install zarr" in printed
    assert "not ready" in printed


def test_doctor_goes_on_without_torch_and_napari(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = {"torch", "napari", "PySide6", "PyQt6", "PyQt5", "PySide2"}
    real = doctor_module.find_spec
    monkeypatch.setattr(doctor_module, "find_spec", lambda name: None if name in gone else real(name))
    assert main(["doctor", "--json"]) == 1
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)["findings"]}
    assert found["torch"]["fix"] == "pip install torch"
    assert (found["napari"]["state"], found["qt"]["state"]) == ("optional", "optional")
    assert "napari-segany[all]" in found["napari"]["fix"]


def test_doctor_reports_a_check_that_breaks_down(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise WeightsError("cannot look")

    monkeypatch.setattr("napari_segany.models.registry.list_models", broken)
    found = {finding.name: finding for finding in doctor_module.examine()}
    assert found["weights"].state == "missing"
    assert "cannot look" in found["weights"].value
    assert "plugin" in found  # the checks after it still ran


def test_training_commands_need_only_their_own_libraries(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('zarr', 'yaozarrs', 'dask', 'napari', 'psygnal', 'xxhash', 'requests'):\n"
        "    sys.modules[name] = None\n"
        "from napari_segany.cli import main\n"
        f"sys.exit(main(['scenes', '--count', '1', '--size', '64', '--out', {str(tmp_path)!r}]))"
    )
    done = _fresh("-c", code)
    assert done.returncode == 0, done.stderr

"""`--engine` on the command line, and what the doctor says of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from skimage.io import imsave

from napari_segany.cli import doctor as doctor_module
from napari_segany.cli import main


@pytest.mark.parametrize("words", [["segment", "--points", "5,5"], ["instances"]], ids=lambda words: words[0])
def test_an_unknown_engine_is_one_line(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, out = tmp_path / "cells.png", tmp_path / "cells.ome.zarr"
    imsave(picture, np.arange(256, dtype=np.uint8).reshape(16, 16), check_contrast=False)
    command, *rest = words
    code = main([command, str(picture), *rest, "--out", str(out), "--device", "cpu", "--engine", "onnx"])
    assert code == 2
    printed = capsys.readouterr().err
    assert "'onnx' is unknown; choose one of torch, openvino, compile" in printed
    assert "Traceback" not in printed
    assert not out.exists()


@pytest.mark.parametrize("is_there", [True, False])
def test_the_doctor_knows_of_openvino(
    is_there: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = doctor_module.find_spec
    here = real("json") if is_there else None
    monkeypatch.setattr(doctor_module, "find_spec", lambda name: here if name == "openvino" else real(name))
    main(["doctor", "--json"])
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)["findings"]}
    assert found["openvino"]["state"] == ("ok" if is_there else "optional")
    assert found["openvino"]["fix"] == ("" if is_there else 'pip install "napari-segany[openvino]"')

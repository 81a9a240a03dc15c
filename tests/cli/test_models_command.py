"""`segany models` and `segany download`: what there is, where it is, under which licence, and bringing it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from napari_segany.cli import main
from napari_segany.models import download
from napari_segany.models.registry import ModelSpec, list_models, spec_of

MICRO = "microsam_vit_b_histopathology"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGANY_CACHE", str(tmp_path))
    monkeypatch.setenv("SEGANY_OFFLINE", "1")
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def lines_of(*words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Return the printed lines by their first word."""
    assert main(["models", *words]) == 0
    return {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}


def test_the_table_says_what_a_model_is_and_can(capsys: pytest.CaptureFixture[str]) -> None:
    lines = lines_of(capsys=capsys)
    assert all(spec.name in lines for spec in list_models())
    assert lines["name"].split() == ["name", "title", "size", "licence", "weights", "fine", "automatic"]
    fine, automatic = lines["name"].index("fine"), lines["name"].index("automatic")
    for spec in list_models():
        line = lines[spec.name].ljust(automatic + 3)
        assert spec.title in line
        assert (line[fine : fine + 3] == "yes") == spec.has_fine
        assert (line[automatic : automatic + 3] == "yes") == (spec.decoder is not None)
    assert "2565 MB" in lines["sam_vit_h"]
    assert "~375 MB" in lines["sam_vit_b"]
    assert "not stated" in lines[MICRO]
    assert "NOASSERTION" not in "".join(lines.values())


def test_the_table_says_where_weights_are(own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own_cache / "sam_vit_b_01ec64.pth").write_bytes(bytes(3_000_000))
    (own_cache / "mobile_sam.safetensors").write_bytes(bytes(5_000_000))
    (own_cache / f"{MICRO}.safetensors").write_bytes(bytes(7_000_000))
    lines = lines_of(capsys=capsys)
    assert "bundled" in lines["sam2-nano"].split()
    assert "3 MB " in lines["sam_vit_b"]
    assert "in cache" in lines["sam_vit_b"]
    assert "5 MB " in lines["mobile_sam"]
    assert "decoder to download" in lines[MICRO]
    assert "to download" in lines["sam_vit_l"]
    (own_cache / f"{MICRO}_decoder.safetensors").write_bytes(bytes(1_000_000))
    line = lines_of("micro*", capsys=capsys)[MICRO]
    assert "in cache" in line
    assert "8 MB " in line


def test_a_name_shows_all_about_a_model(own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = spec_of(MICRO)
    assert main(["models", MICRO]) == 0
    printed = capsys.readouterr().out
    for fact in (
        spec.title,
        spec.note,
        spec.licence_note,
        spec.url,
        f"xxh128 {spec.xxh128}",
        spec.decoder.url,
        spec.decoder.xxh128,
        str(own_cache / spec.file),
        str(own_cache / spec.decoder.file),
    ):
        assert fact in printed
    assert main(["models", "sam2-nano"]) == 0
    assert "sam2-nano.safetensors" in capsys.readouterr().out


def test_licences_are_listed_with_what_restricts_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--licences"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for spec in list_models():
        assert spec.name in printed
        assert spec.licence_note in printed
    assert main(["models", "sam_*", "--licences"]) == 0
    assert "not stated" not in capsys.readouterr().out


def test_json_has_the_same_facts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", MICRO, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["licence_note"] == spec_of(MICRO).licence_note
    assert row["hash"] == f"xxh128:{spec_of(MICRO).xxh128}"
    assert row["weights"] == "to download"
    assert row["automatic"]
    assert row["path"] is None


def test_download_says_the_licence_first_and_brings_both_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = ""

    def find(spec: ModelSpec, *, progress: download.Progress) -> Path:
        nonlocal printed
        so_far = capsys.readouterr()
        assert spec.licence_note in " ".join(so_far.err.split())
        printed += so_far.out
        progress(1, 2, "downloading")
        return Path("weights") / spec.file

    def find_second(spec: ModelSpec, *, progress: download.Progress) -> Path | None:
        return Path("weights") / spec.decoder.file if spec.decoder else None

    monkeypatch.setattr(download, "find_weights", find)
    monkeypatch.setattr(download, "find_decoder", find_second)
    assert main(["download", MICRO]) == 0
    printed += capsys.readouterr().out
    assert [line.split(": ")[0] for line in printed.splitlines()] == [MICRO, MICRO]
    assert f"{MICRO}_decoder.pt" in printed
    printed = ""
    assert main(["download", "sam_vit_?", "mobile_sam", "mobile*"]) == 0
    printed += capsys.readouterr().out
    names = [line.split(": ")[0] for line in printed.splitlines()]
    assert names == ["sam_vit_b", "sam_vit_l", "sam_vit_h", "mobile_sam"]


def test_download_of_what_is_bundled_or_unknown_or_offline(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "sam2-nano"]) == 0
    assert "sam2-nano.safetensors" in capsys.readouterr().out
    assert main(["download", "sam_vit_x"]) == 2
    assert "did you mean" in capsys.readouterr().err
    assert main(["download", "sam_vit_b"]) == 2
    said = capsys.readouterr().err
    assert "SEGANY_OFFLINE" in said
    assert spec_of("sam_vit_b").sha256 in said

"""Rows of the registry: complete, found by name and pattern, and torch-free."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from napari_segany.core.errors import UnknownModelError
from napari_segany.models.registry import NOT_STATED, Layout, RemoteFile, list_models, spec_of
from napari_segany.models.rows import BUNDLED, NANO_HQ, ROWS


def test_rows_are_found_by_pattern_bundled_ones_first() -> None:
    names = [spec.name for spec in list_models()]
    assert names[0] == "sam2-nano"
    assert len(names) == len(set(names))
    assert [spec.name for spec in list_models("sam2.1_hiera_*")] == [
        f"sam2.1_hiera_{size}" for size in ("tiny", "small", "base_plus", "large")
    ]
    assert list_models("no-such-model") == []


@pytest.mark.parametrize("spec", list_models(), ids=lambda spec: spec.name)
def test_a_row_has_what_people_need_to_know(spec) -> None:
    assert spec_of(spec.name) is spec
    assert spec.licence in {"Apache-2.0", "BSD-3-Clause", "CC-BY-4.0", NOT_STATED}
    assert bool(spec.licence_note) == (spec.licence in {"CC-BY-4.0", NOT_STATED})
    assert spec.title
    assert spec.note.endswith(".")
    if spec.is_bundled:
        assert spec.known_hash is None
    else:
        assert spec.url.startswith("https://")
        assert spec.known_hash is not None or spec.name in {
            "sam2.1_hq_hiera_large",
            "edgetam",
            "semantic_sam_swinT",
            "semantic_sam_swinL",
        }
        assert spec.n_parameters is not None


def test_the_stronger_hash_is_preferred() -> None:
    assert spec_of("sam2.1_hiera_tiny").known_hash[0] == "sha256"
    assert spec_of("sam2_hiera_large").known_hash[0] == "md5"
    assert spec_of("microsam_vit_b_lm").known_hash == ("xxh128", "fe9252a29f3f4ea53c15a06de471e186")
    assert spec_of("sam2.1_hq_hiera_large").known_hash is None


def test_every_published_checkpoint_has_a_row() -> None:
    assert [spec.name for spec in list_models("sam_*")] == [
        *(f"sam_vit_{size}" for size in "blh"),
        *(f"sam_hq_vit_{size}" for size in ("tiny", "b", "l", "h")),
    ]
    assert {spec.name.removeprefix("microsam_") for spec in list_models("microsam_*")} == {
        *(f"vit_{size}_{data}" for size in "blt" for data in ("lm", "em_organelles")),
        *(f"vit_{size}_histopathology" for size in "blh"),
        "vit_b_medical_imaging",
    }
    assert {spec.name for spec in list_models() if spec.has_fine} == {
        *(f"sam_hq_vit_{size}" for size in ("tiny", "b", "l", "h")),
        "sam2.1_hq_hiera_large",
        *(spec.name for spec in BUNDLED if "hq" in spec.name),
    }


def test_semantic_sam_s_licence_is_said_not_to_be_stated() -> None:
    rows = list_models("semantic_sam_*")
    assert [spec.name for spec in rows] == ["semantic_sam_swinT", "semantic_sam_swinL"]
    for spec in rows:
        assert spec.licence == NOT_STATED
        assert "no licence file" in spec.licence_note
        assert spec.url.startswith("https://github.com/UX-Decoder/Semantic-SAM/releases/download/checkpoint/")


def test_micro_sam_s_models_have_a_decoder_of_their_own() -> None:
    with_decoder = [spec for spec in list_models() if spec.decoder is not None]
    assert [spec.name for spec in with_decoder] == [spec.name for spec in list_models("microsam_*")]
    hashes = [spec.decoder.xxh128 for spec in with_decoder] + [spec.xxh128 for spec in with_decoder]
    addresses = [spec.decoder.url for spec in with_decoder] + [spec.url for spec in with_decoder]
    assert len(set(hashes)) == len(hashes) == len(set(addresses)) == 20


def test_no_two_rows_share_a_file_in_the_cache() -> None:
    files = [Path(spec.file).stem for spec in ROWS]
    files += [Path(spec.decoder.file).stem for spec in ROWS if spec.decoder]
    assert len(set(files)) == len(files)


def test_a_layout_is_that_of_one_kind_of_row() -> None:
    """Each layout's own marks fit no other layout, but for micro-sam's, which are SAM's."""
    for spec in (*ROWS, NANO_HQ):
        shapes = {key: shape or (1,) for key, shape in spec.layout.shapes}
        filler = (spec.layout.n_keys or 500) - len(shapes)
        shapes |= {f"filler.{index}": (1,) for index in range(filler)}
        fitting = [other for other in (*ROWS, NANO_HQ) if other.layout.fits(shapes)]
        assert spec in fitting
        assert {(one.version, one.trunk) for one in fitting} == {(spec.version, spec.trunk)}
        assert not fitting[0].name.startswith("microsam")


@pytest.mark.parametrize(
    ("name", "close"), [("sam2.1_hiera_tny", "sam2.1_hiera_tiny"), ("sam2_nano", "sam2-nano")]
)
def test_an_unknown_name_suggests_close_ones_and_a_path(name: str, close: str) -> None:
    with pytest.raises(UnknownModelError, match="path") as caught:
        spec_of(name)
    assert close in str(caught.value)
    assert isinstance(caught.value, LookupError)


def test_a_name_like_no_other_lists_all() -> None:
    with pytest.raises(UnknownModelError, match="known names: sam2-nano, "):
        spec_of("42")


def test_a_row_checks_itself() -> None:
    spec = spec_of("sam2.1_hiera_tiny")
    with pytest.raises(ValueError, match="sha256"):
        replace(spec, sha256="7402")
    with pytest.raises(ValueError, match="xxh128"):
        RemoteFile("decoder.pt", "https://nowhere", Layout(None, ()), xxh128="F" * 32)
    with pytest.raises(ValueError, match="licence_note"):
        replace(spec, licence=NOT_STATED)


def test_a_layout_asks_for_count_keys_shapes_and_absence() -> None:
    layout = Layout(2, (("a", (3, 4)), ("b", ())), absent=("c",))
    assert layout.fits({"a": (3, 4), "b": (7,)})
    assert not layout.fits({"a": (3, 4), "b": (7,), "d": ()})
    assert not layout.fits({"a": (4, 3), "b": (7,)})
    assert not layout.fits({"a": (3, 4), "d": (7,)})
    assert not Layout(None, (("a", ()),), absent=("c",)).fits({"a": (1,), "c": (1,)})


def test_the_registry_needs_no_torch() -> None:
    code = "import sys; import napari_segany.models.registry; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"

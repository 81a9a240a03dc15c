"""Rows of the registry: complete, found by name and pattern, and torch-free."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from napari_segany.core.errors import UnknownModelError
from napari_segany.models.registry import Layout, list_models, spec_of


def test_rows_are_found_by_pattern_bundled_ones_first() -> None:
    names = [spec.name for spec in list_models()]
    assert names[0] == "sam2-nano"
    assert len(names) == len(set(names))
    assert [spec.name for spec in list_models("sam2.1_*")] == [
        f"sam2.1_hiera_{size}" for size in ("tiny", "small", "base_plus", "large")
    ]
    assert list_models("no-such-model") == []


@pytest.mark.parametrize("spec", list_models(), ids=lambda spec: spec.name)
def test_a_row_has_what_people_need_to_know(spec) -> None:
    assert spec_of(spec.name) is spec
    assert spec.licence in {"Apache-2.0", "BSD-3-Clause"}
    assert spec.title
    assert spec.note.endswith(".")
    if spec.is_bundled:
        assert spec.known_hash is None
    else:
        assert spec.url.startswith("https://")
        assert spec.url.endswith(f"/{spec.file}")
        assert spec.n_parameters is not None


def test_the_stronger_hash_is_preferred() -> None:
    assert spec_of("sam2.1_hiera_tiny").known_hash[0] == "sha256"
    assert spec_of("sam2_hiera_large").known_hash[0] == "md5"


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
    with pytest.raises(ValueError, match="needs a sha256 or an md5"):
        replace(spec, sha256=None, md5=None)


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

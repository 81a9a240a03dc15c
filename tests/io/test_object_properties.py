import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_segany.core.axes import Calibration
from napari_segany.core.errors import FileFormatError
from napari_segany.core.masks import LabelPatch
from napari_segany.io.label_store import LabelStore
from napari_segany.io.ngff import read_attributes, write_attributes
from napari_segany.io.object_properties import read_object_properties, write_object_properties
from napari_segany.io.ome_zarr import write_labels_ome_zarr

PLANE = Calibration("YX", (1.0, 1.0))


@pytest.fixture
def group(tmp_path):
    labels = np.zeros((600, 700), dtype=np.uint32)
    labels[2:9, 3:9] = 4
    return write_labels_ome_zarr(tmp_path / "a.ome.zarr", labels, calibration=PLANE)


def test_a_table_comes_back_as_it_was(group) -> None:
    columns = {
        "index": np.array([4, 7]),
        "class": np.array(["nucleus", ""]),
        "score": np.array([0.5, math.nan], dtype=np.float32),
        "checked": [True, False],
    }
    write_object_properties(group, columns)
    assert read_object_properties(group) == {
        "index": [4, 7],
        "class": ["nucleus", ""],
        "score": [0.5, None],
        "checked": [True, False],
    }
    listed = json.loads((group / "zarr.json").read_text())["attributes"]["ome"]["image-label"]["properties"]
    assert listed[0] == {"label-value": 4, "class": "nucleus", "score": 0.5, "checked": True}


def test_commits_leave_it_where_it_is(group) -> None:
    write_object_properties(group, {"index": [4], "class": ["nucleus"]})
    one = np.ones((3, 3), dtype=np.uint32)
    with LabelStore.open(group) as store:  # the pyramid goes, and with it the list of levels
        store.write(LabelPatch(index=(), row0=50, col0=50, before=one * 0, after=one * 9))
    assert len(read_attributes(group)["ome"]["multiscales"][0]["datasets"]) == 1
    assert read_object_properties(group)["class"] == ["nucleus"]


def test_no_rows_are_no_list(group) -> None:
    assert read_object_properties(group) == {}
    write_object_properties(group, {"index": [4], "class": ["x"]})
    write_object_properties(group, {"index": [], "class": []})
    assert read_object_properties(group) == {}


def test_what_other_programs_wrote_is_read_as_far_as_it_is_a_table(group) -> None:
    attributes = read_attributes(group)
    attributes["ome"]["image-label"]["properties"] = [{"label-value": 1, "area": 3}, {"class": "x"}, 5]
    write_attributes(group, attributes)
    assert read_object_properties(group) == {"index": [1], "area": [3]}


def test_folders_that_hold_no_labels_are_refused(tmp_path) -> None:
    (tmp_path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {"ome": {}}}')
    for call in (read_object_properties, lambda folder: write_object_properties(folder, {"index": []})):
        with pytest.raises(FileFormatError, match="image-label"):
            call(tmp_path)


@given(names=st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_any_text_survives(tmp_path_factory, names: list[str]) -> None:
    labels = np.ones((4, 4), dtype=np.uint32)
    group = write_labels_ome_zarr(tmp_path_factory.mktemp("t") / "a", labels, calibration=PLANE)
    write_object_properties(group, {"index": range(1, len(names) + 1), "class": names})
    assert read_object_properties(group)["class"] == names

"""Saved work on stacks, and remarks in the ledger of a store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from napari_segany.core.axes import Calibration
from napari_segany.core.errors import FileFormatError, StoreError
from napari_segany.core.masks import LabelPatch
from napari_segany.io.label_store import LabelStore
from napari_segany.io.state import ImageReference, SavedStack, SavedState, load_state, save_state

STACK = {
    "axis": 0,
    "objects": [
        {
            "id": 3,
            "name": "cell",
            "colour": [1, 0.5, 0],
            "prompts": [{"frame": 2, "points": [[1.5, 2, True]]}],
            "told": [2],
            "results": [[2, 0.9, 4, 1.5, 2.5], [3, -1.0, 0, None, None]],
            "stale": [[3, 4]],
        }
    ],
    "locked_frames": [[0, 2]],
    "interrupted": [[2, 5, 1], [2, -1, -1]],
}
IMAGE = ImageReference(path="", shape=(5, 8, 9), axes="TYX")


def test_a_stack_is_saved_and_read_again(tmp_path: Path) -> None:
    stack = SavedStack.model_validate(STACK)
    file = save_state(tmp_path / "work", SavedState(image=IMAGE, stack=stack))
    assert load_state(file).stack == stack
    assert stack.objects[0].results[1] == (3, -1.0, 0, None, None)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"objects": [*STACK["objects"], *STACK["objects"]]}, "two objects have the same id"),
        ({"objects": [{"id": 0}]}, "objects.0.id"),
        ({"objects": [{"id": 1, "colour": [2, 0, 0]}]}, "colour"),
        ({"objects": [{"id": 1, "told": [4]}]}, r"frames \[4\] were told"),
        ({"objects": [{"id": 1, "prompts": [{"frame": 2}]}]}, "at least one point"),
        ({"objects": [{"id": 1, "prompts": [{"frame": 2, "box": [0, 0, 2, 2]}] * 2}]}, "in one entry"),
        ({"at": [1]}, r"lies at \(1,\), not at 0 indices"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_is_damaged_is_named(tmp_path: Path, change: dict[str, object], complaint: str) -> None:
    content = SavedState(image=IMAGE, stack=SavedStack.model_validate(STACK)).model_dump_json(by_alias=True)
    file = tmp_path / "a.segany.json"
    broken = json.loads(content)
    broken["stack"] |= change
    file.write_text(json.dumps(broken))
    with pytest.raises(FileFormatError, match=complaint):
        load_state(file)


def test_remarks_are_lines_of_their_own_between_commits(tmp_path: Path) -> None:
    path = tmp_path / "labels.ome.zarr"
    ones = np.ones((2, 2), dtype=np.uint32)
    with LabelStore.create(path, shape=(3, 8, 9), calibration=Calibration("TYX")) as store:
        store.remark({"what": "begun"})
        store.write(LabelPatch(index=(1,), row0=2, col0=3, before=ones * 0, after=ones * 7), note={"n": 1})
        store.remark({"what": "ended", "frames": np.arange(2)}, index=(1,))
        with pytest.raises(StoreError, match="must be JSON"):
            store.remark({"what": object()})
        assert store.next_label() == 8
    with LabelStore.open(path) as store:
        first, commit, last = store.records()
        assert [one.number for one in store.records()] == [1, 2, 3]
        assert first.note == {"what": "begun"} and first.labels == () and first.shards == ()
        assert (
            commit.labels == (7,) and last.note == {"what": "ended", "frames": [0, 1]} and last.index == (1,)
        )
        assert store.next_label() == 8 and int(np.asarray(store.array).sum()) == 28
    with LabelStore.open(path, read_only=True) as store, pytest.raises(StoreError, match="read_only"):
        store.remark({})

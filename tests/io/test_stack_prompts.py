"""Prompts of every kind of file, sorted by stack and frame; and labels of a frame as prompts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from tests.strategies import label_planes

from napari_segany.core.axes import Calibration
from napari_segany.core.errors import FileFormatError, PromptError
from napari_segany.core.frames import FrameStack, ImagePlanes, frame_stacks
from napari_segany.core.types import Box, Points, Prompt
from napari_segany.io.ome_zarr import write_labels_ome_zarr
from napari_segany.io.prompts import FramePrompts, ImageReference, SavedObject, SavedState, save_state
from napari_segany.io.stack_prompts import StackPrompt, load_stack_prompts
from napari_segany.io.state import FollowedObject, SavedStack, SpokenFrame


def _stacks(axes: str = "TZYX", *, axis: str = "T", fixed: dict[str, int] | None = None) -> list[FrameStack]:
    shape = [{"T": 5, "Z": 3, "Y": 20, "X": 30}[letter] for letter in axes]
    return list(frame_stacks(ImagePlanes(np.zeros(shape, np.uint8), axes), axis=axis, fixed=fixed))


def _places(found: list[list[StackPrompt]]) -> list[list[tuple[int, int]]]:
    return [[(one.object_id, one.frame) for one in each] for each in found]


def _csv(path: Path, rows: list[tuple[float, ...]]) -> Path:
    names = [f"axis-{i}" for i in range(len(rows[0]) - 1)]
    lines = [",".join(["index", *names, "object_id", "positive"])]
    lines += [",".join(map(str, (i, *row[:-1], int(row[-1]), True))) for i, row in enumerate(rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


class TestPlanes:
    def test_named_in_full(self, tmp_path: Path) -> None:
        file = _csv(tmp_path / "a.csv", [(4, 0, 5, 6, 1), (1, 2, 7, 8, 1), (2, 2, 9, 9, 3)])
        assert _places(load_stack_prompts(file, _stacks())) == [[(1, 4)], [], [(1, 1), (3, 2)]]
        by_depth = load_stack_prompts(file, _stacks(axis="Z"))
        assert _places(by_depth) == [[], [(1, 2)], [(3, 2)], [], [(1, 0)]]
        assert by_depth[2][0].prompt().points.coords.tolist() == [[9, 9]]  # type: ignore[union-attr]

    def test_of_other_places_than_a_fixed_one_are_left_out(self, tmp_path: Path) -> None:
        file = _csv(tmp_path / "a.csv", [(4, 0, 5, 6, 1), (1, 2, 7, 8, 1)])
        assert _places(load_stack_prompts(file, _stacks(fixed={"Z": 2}))) == [[(1, 1)]]
        with pytest.raises(
            PromptError, match=r"no prompt for image \[Z=1\]; those it has are on other planes"
        ):
            load_stack_prompts(file, _stacks(fixed={"Z": 1}))

    def test_the_frame_alone_holds_for_every_stack(self, tmp_path: Path) -> None:
        file = _csv(tmp_path / "a.csv", [(4, 5, 6, 1)])
        assert _places(load_stack_prompts(file, _stacks())) == [[(1, 4)]] * 3
        with pytest.raises(PromptError, match=r"plane \(4,\), outside the planes \(3,\)"):
            load_stack_prompts(file, _stacks(axis="Z"))

    def test_not_named_at_all(self, tmp_path: Path) -> None:
        file = _csv(tmp_path / "a.csv", [(5, 6, 1), (7, 8, 2)])
        with pytest.raises(PromptError, match=r"object 1 of .*a\.csv names no frame; .* --frame"):
            load_stack_prompts(file, _stacks("TYX"))
        assert _places(load_stack_prompts(file, _stacks("TYX"), frame=3)) == [[(1, 3), (2, 3)]]
        with pytest.raises(PromptError, match="frame 5 is not one of the 5"):
            load_stack_prompts(file, _stacks("TYX"), frame=5)

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ((5, 5, 6, 1), "outside the planes"),
            ((0, 20, 6, 1), "click 20,6 is outside the image of 20 x 30"),
            ((0, 0, 0, 5, 6, 1), "by 3 indices; the stack needs 1, for 'T'"),
        ],
    )
    def test_outside(self, tmp_path: Path, row: tuple[float, ...], message: str) -> None:
        with pytest.raises(PromptError, match=message):
            load_stack_prompts(_csv(tmp_path / "a.csv", [row]), _stacks("TYX"))


class TestKinds:
    def test_saved_states_keep_everything(self, tmp_path: Path) -> None:
        mask = np.zeros((20, 30), bool)
        mask[3:9, 4:8] = True
        points = Points(np.array([[5.5, 6]], np.float32), np.array([False]))
        said = Prompt(points=points, box=Box(1, 2, 10, 12), mask=mask)
        one = SavedObject(id=7, name="mother", prompts=(FramePrompts.of(said, index=(2,)),))
        state = SavedState(image=ImageReference(path="", shape=(5, 20, 30), axes="TYX"), objects=(one,))
        file = save_state(tmp_path / "a", state)
        ((found,),) = load_stack_prompts(file, _stacks("TYX"))
        assert (found.object_id, found.frame, found.name) == (7, 2, "mother")
        assert found.prompt().box == said.box
        np.testing.assert_array_equal(found.prompt().mask, mask)
        assert found.prompt().points.positive.tolist() == [False]  # type: ignore[union-attr]

    def test_saved_work_on_a_stack(self, tmp_path: Path) -> None:
        clicked = SpokenFrame(frame=4, points=((5.0, 6.0, True),))
        boxed = SpokenFrame(frame=1, box=(1, 2, 10, 12))
        one = FollowedObject(id=3, name="mother", prompts=(clicked, boxed))
        image = ImageReference(path="", shape=(5, 3, 20, 30), axes="TZYX")
        state = SavedState(image=image, stack=SavedStack(axis=0, at=(2,), objects=(one,)))
        file = save_state(tmp_path / "a", state)
        found = load_stack_prompts(file, _stacks())
        assert _places(found) == [[], [], [(3, 1), (3, 4)]]
        assert found[2][0].prompt().box == Box(1, 2, 10, 12) and found[2][1].name == "mother"

    def test_rectangles_of_a_shapes_layer(self, tmp_path: Path) -> None:
        corners = [(3, 4), (3, 9), (8, 9), (8, 4)]
        rows = [f"0,rectangle,{i},2,{row},{col}" for i, (row, col) in enumerate(corners)]
        file = tmp_path / "shapes.csv"
        file.write_text("\n".join(["index,shape-type,vertex-index,axis-0,axis-1,axis-2", *rows]))
        ((found,),) = load_stack_prompts(file, _stacks("TYX"))
        assert found.frame == 2 and found.prompt().box == Box(3.5, 4.5, 8.5, 9.5)

    def test_geojson(self, tmp_path: Path) -> None:
        def feature(**extra: object) -> dict[str, object]:
            return {"geometry": {"type": "Point", "coordinates": [8, 5], **extra}}

        file = tmp_path / "a.geojson"
        file.write_text(json.dumps({"features": [feature(plane={"t": 3, "z": 1}), feature()]}))
        assert _places(load_stack_prompts(file, _stacks())) == [[(2, 0)], [(1, 3)], []]
        file.write_text(json.dumps(feature()))
        assert _places(load_stack_prompts(file, _stacks("TYX"))) == [[(1, 0)]]
        assert _places(load_stack_prompts(file, _stacks("TYX"), frame=4)) == [[(1, 4)]]

    @pytest.mark.parametrize("name", ["a.txt", "a.png", "missing.csv", "missing.tif"])
    def test_others_are_refused(self, tmp_path: Path, name: str) -> None:
        if not name.startswith("missing"):
            (tmp_path / name).write_text("hello")
        with pytest.raises(FileFormatError, match=name):
            load_stack_prompts(tmp_path / name, _stacks())

    @pytest.mark.parametrize("content", ["", "{", '{"features": [{}]}', "[1]", "[]"])
    def test_damaged_geojson_is_refused(self, tmp_path: Path, content: str) -> None:
        file = tmp_path / "a.geojson"
        file.write_text(content)
        with pytest.raises((FileFormatError, PromptError), match=r"a\.geojson"):
            load_stack_prompts(file, _stacks("TYX"), frame=0)


class TestLabels:
    @settings(max_examples=20, deadline=None)
    @given(label_planes(20, 30))
    def test_every_object_of_a_plane(
        self, tmp_path_factory: pytest.TempPathFactory, labels: np.ndarray
    ) -> None:
        file = tmp_path_factory.mktemp("labels") / "labels.tif"
        tifffile.imwrite(file, labels)
        if not labels.any():
            return
        (found,) = load_stack_prompts(file, _stacks("TYX"), frame=2)
        assert [one.object_id for one in found] == [i for i in np.unique(labels) if i]
        for one in found:
            assert one.frame == 2
            np.testing.assert_array_equal(one.prompt().mask, labels == one.object_id)

    def _whole(self) -> np.ndarray:
        labels = np.zeros((5, 3, 20, 30), np.uint16)
        labels[1, 2, 3:9, 4:8] = 4
        labels[3, 2, 3:9, 4:8] = 4
        labels[3, 0, 0:2, 0:2] = 9
        return labels

    @pytest.mark.parametrize("kind", ["tiff", "zarr"])
    def test_of_all_planes(self, tmp_path: Path, kind: str) -> None:
        if kind == "tiff":
            file = tmp_path / "labels.ome.tif"
            tifffile.imwrite(file, self._whole(), ome=True, metadata={"axes": "TZYX"})
        else:
            file = tmp_path / "labels.ome.zarr"
            write_labels_ome_zarr(file, self._whole(), calibration=Calibration("TZYX"))
        wanted = [[(9, 3)], [], [(4, 1), (4, 3)]]
        assert _places(load_stack_prompts(file, _stacks())) == wanted
        assert _places(load_stack_prompts(file, _stacks(), frame=3)) == [[(9, 3)], [], [(4, 3)]]
        assert _places(load_stack_prompts(file, _stacks(fixed={"Z": 2}))) == [[(4, 1), (4, 3)]]

    def test_of_the_frames_of_one_stack(self, tmp_path: Path) -> None:
        file = tmp_path / "labels.tif"
        tifffile.imwrite(file, self._whole()[:, 2], metadata={"axes": "TYX"})
        assert _places(load_stack_prompts(file, _stacks(fixed={"Z": 1}))) == [[(4, 1), (4, 3)]]
        assert _places(load_stack_prompts(file, _stacks("TYX"), frame=3)) == [[(4, 3)]]

    def test_of_one_plane_that_is_called_a_stack(self, tmp_path: Path) -> None:
        file = tmp_path / "labels.ome.tif"
        tifffile.imwrite(file, self._whole()[3:4, 2:3], ome=True, metadata={"axes": "TZYX"})
        with pytest.raises(PromptError, match=r"object 4 .* names no frame"):
            load_stack_prompts(file, _stacks("TYX"))
        assert _places(load_stack_prompts(file, _stacks("TYX"), frame=1)) == [[(4, 1)]]

    @pytest.mark.parametrize(
        ("labels", "error", "message"),
        [
            (np.zeros((20, 30), np.uint8), PromptError, "holds no prompt"),
            (np.ones((20, 31), np.uint8), PromptError, r"shape \(20, 31\), which fit neither"),
            (np.ones((4, 20, 30), np.uint8), PromptError, r"shape \(4, 20, 30\)"),
            (np.ones((20, 30), np.float32), FileFormatError, "labels are whole numbers"),
            (np.full((20, 30), -1, np.int16), FileFormatError, "labels from -1 to -1"),
            (np.ones((20, 30, 3), np.uint8), FileFormatError, "without channels"),
        ],
    )
    def test_what_does_not_fit(
        self, tmp_path: Path, labels: np.ndarray, error: type[Exception], message: str
    ) -> None:
        file = tmp_path / "labels.tif"
        tifffile.imwrite(file, labels, photometric="rgb" if labels.shape[-1] == 3 else "minisblack")
        with pytest.raises(error, match=message):
            load_stack_prompts(file, _stacks("TYX"), frame=0)

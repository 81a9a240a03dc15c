from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.strategies import finite, masks

from napari_segany.core.axes import Calibration
from napari_segany.core.errors import FileFormatError, PromptError
from napari_segany.core.types import Box, Points, Prompt
from napari_segany.io.prompts import (
    FramePrompts,
    ImageReference,
    LabelReference,
    ModelReference,
    SavedObject,
    SavedState,
    load_prompts,
    load_state,
    read_csv,
    save_state,
    write_csv,
)

IMAGE = ImageReference(
    path="movie.tif", shape=(5, 2, 64, 80), axes="TCYX", scale=(2, 0.5, 0.5), units=("s", "um", "um")
)


@st.composite
def prompts(draw: st.DrawFn) -> Prompt:
    coords = draw(st.lists(st.tuples(finite, finite), max_size=4))
    signs = draw(st.lists(st.booleans(), min_size=len(coords), max_size=len(coords)))
    points = Points(np.array(coords, dtype=np.float32).reshape(-1, 2), np.array(signs, dtype=bool))
    row, col, height, width = (draw(st.integers(0, 50)) for _ in range(4))
    box = draw(st.sampled_from([None, Box(row, col, row + height + 0.5, col + width + 1)]))
    mask = draw(st.none() | masks())
    if not coords and box is None and mask is None:
        box = Box(0, 0, 1, 1)
    return Prompt(points=points, box=box, mask=mask)


def same(a: Prompt, b: Prompt) -> bool:
    points = [
        (one.points.coords.tolist(), one.points.positive.tolist()) if one.points else None for one in (a, b)
    ]
    drawn = [None if one.mask is None else one.mask.tolist() for one in (a, b)]
    return points[0] == points[1] and a.box == b.box and drawn[0] == drawn[1]


class TestSavedState:
    @settings(max_examples=40, deadline=None)
    @given(st.lists(prompts(), max_size=3))
    def test_everything_comes_back(
        self, tmp_path_factory: pytest.TempPathFactory, given_: list[Prompt]
    ) -> None:
        kept = tuple(FramePrompts.of(prompt, index=(i,)) for i, prompt in enumerate(given_))
        state = SavedState(
            image=IMAGE,
            model=ModelReference(name="sam2-nano", sha256="ab" * 32),
            objects=(SavedObject(id=3, name="mother", prompts=kept),),
            labels=LabelReference(path="movie.ome.zarr"),
        )
        file = save_state(tmp_path_factory.mktemp("state") / "work", state)
        assert file.name == "work.segany.json"
        again = load_state(file)
        assert again == state
        for saved, prompt in zip(again.objects[0].prompts, given_, strict=True):
            assert same(saved.prompt(), prompt)
        assert again.image.calibration() == Calibration("TYX", (2, 0.5, 0.5), (), ("s", "um", "um"))

    def test_logits_are_not_kept(self) -> None:
        click = Points(np.array([[1, 2]]), np.array([True]))
        assert FramePrompts.of(Prompt(points=click, mask=np.ones((4, 4), np.float32))).mask is None

    def test_saving_replaces_the_file_at_once(self, tmp_path: Path) -> None:
        file = save_state(tmp_path / "a.json", SavedState(image=IMAGE))
        save_state(file, SavedState(image=IMAGE, objects=(SavedObject(id=1),)))
        assert [left.name for left in tmp_path.iterdir()] == ["a.segany.json"]
        assert len(load_state(file).objects) == 1
        with pytest.raises(OSError, match="cannot write"):
            save_state(tmp_path / "no" / "folder", SavedState(image=IMAGE))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"segany": 2}, "version 2, but only 1 is known; update"),
            ({"segany": None}, "no key 'segany'"),
            ({"extra": 1}, "extra: "),
            ({"image": None}, "image: "),
            ({"image": {"path": "", "shape": [4, 4], "axes": "TYX"}}, "do not fit"),
            ({"objects": [{"id": 0}]}, r"objects.0.id"),
            ({"objects": [{"id": 1}, {"id": 1}]}, "same id"),
            ({"objects": [{"id": 1, "prompts": [{"index": [0]}]}]}, "at least one point"),
            ({"objects": [{"id": 1, "prompts": [{"index": [], "box": [0, 0, 1, 1]}]}]}, "not 1 indices"),
            ({"objects": [{"id": 1, "prompts": [{"index": [0], "box": [5, 0, 1, 1]}]}]}, "inverted"),
            ({"objects": [{"id": 1, "prompts": [{"index": [-1], "box": [0, 0, 1, 1]}]}]}, "greater"),
            (
                {
                    "objects": [
                        {"id": 1, "prompts": [{"index": [0], "mask": {"size": [4, 4], "counts": "5"}}]}
                    ]
                },
                "cover",
            ),
            ({"objects": [{"id": 1, "prompts": [{"index": [0], "box": [0, 0, 1, 1]}] * 2}]}, "one entry"),
        ],
    )
    def test_what_is_wrong_is_said(self, tmp_path: Path, change: dict[str, object], message: str) -> None:
        file = save_state(tmp_path / "a", SavedState(image=IMAGE))
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
        with pytest.raises(FileFormatError, match=message):
            load_state(file)

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"12"])
    def test_no_state(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.segany.json").write_bytes(content)
        with pytest.raises(FileFormatError, match=r"a\.segany\.json"):
            load_prompts(tmp_path / "a.segany.json")


class TestCsv:
    @settings(max_examples=40, deadline=None)
    @given(
        st.dictionaries(
            st.integers(1, 9),
            st.dictionaries(
                st.integers(0, 4), st.lists(st.tuples(finite, finite, st.booleans()), min_size=1), min_size=1
            ),
            min_size=1,
        )
    )
    def test_points_come_back(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        drawn: dict[int, dict[int, list[tuple[float, float, bool]]]],
    ) -> None:
        objects = [
            SavedObject(
                id=key,
                prompts=tuple(
                    FramePrompts(index=(t,), points=tuple(clicks)) for t, clicks in sorted(planes.items())
                ),
            )
            for key, planes in sorted(drawn.items())
        ]
        file = write_csv(tmp_path_factory.mktemp("csv") / "points.csv", objects)
        assert load_prompts(file, axes="TYX") == objects

    def test_napari_reads_and_writes_the_same_table(self, tmp_path: Path) -> None:
        file = tmp_path / "points.csv"
        file.write_text("index,axis-0,axis-1,label\n0,10.5,20.0,positive\n1,11.0,22.0,negative\n")
        (one,) = read_csv(file)
        assert one.prompts[0].points == ((10.5, 20, True), (11, 22, False))

    def test_bare_points_are_an_object_each(self, tmp_path: Path) -> None:
        file = tmp_path / "points.csv"
        file.write_text("index,axis-0,axis-1\n0,10,20\n1,30,40\n")
        assert [one.id for one in load_prompts(file)] == [1, 2]
        with pytest.raises(PromptError, match="0 indices, but axes 'TYX' need 1"):
            load_prompts(file, axes="TYX")

    def test_rectangles_are_boxes(self, tmp_path: Path) -> None:
        file = tmp_path / "shapes.csv"
        corners = [(2, 9.5, 19.5), (2, 9.5, 39.5), (2, 29.5, 39.5), (2, 29.5, 19.5)]
        rows = [f"0,rectangle,{i},{t},{y},{x}" for i, (t, y, x) in enumerate(corners)]
        file.write_text("\n".join(["index,shape-type,vertex-index,axis-0,axis-1,axis-2", *rows]) + "\n")
        (one,) = load_prompts(file, axes="ZYX")
        assert one.prompts == (FramePrompts(index=(2,), box=(10, 20, 30, 40)),)
        file.write_text(file.read_text().replace("rectangle", "ellipse"))
        with pytest.raises(PromptError, match="shape 1 is a ellipse; only rectangles"):
            load_prompts(file, axes="ZYX")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "axis-0"),
            ("x,y\n1,2\n", "axis-0"),
            ("index,axis-0,axis-1\n0,ten,20\n", "ten"),
            ("index,axis-0,axis-1\n0,10\n", "damaged"),
            ("index,axis-0,axis-1,label\n0,10,20,maybe\n", "row 1: label is 'maybe'"),
            ("index,axis-0,axis-1,object_id\n0,10,20,0\n", "greater than or equal to 1"),
            ("index,axis-0,axis-1\n0,nan,20\n", "finite"),
        ],
    )
    def test_damaged_tables(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "a.csv").write_text(text)
        with pytest.raises(FileFormatError, match=message):
            load_prompts(tmp_path / "a.csv")

    def test_boxes_do_not_fit_a_table_of_points(self, tmp_path: Path) -> None:
        boxes = [SavedObject(id=1, prompts=(FramePrompts(box=(0, 0, 1, 1)),))]
        with pytest.raises(PromptError, match="save_state"):
            write_csv(tmp_path / "a.csv", boxes)


def feature(
    kind: str, coordinates: object, *, plane: object = None, **properties: object
) -> dict[str, object]:
    geometry = {"type": kind, "coordinates": coordinates} | ({"plane": plane} if plane else {})
    return {"type": "Feature", "geometry": geometry, "properties": properties}


SQUARE = [[[20, 10], [40, 10], [40, 30], [20, 30], [20, 10]]]


class TestGeoJson:
    def write(self, folder: Path, content: object) -> Path:
        file = folder / "a.geojson"
        file.write_text(json.dumps(content))
        return file

    def test_points_and_rectangles(self, tmp_path: Path) -> None:
        features = [
            feature("Point", [20.5, 10.5]),
            feature("MultiPoint", [[1, 2], [3, 4]], classification={"name": "Negative"}),
            feature("Polygon", SQUARE),
        ]
        file = self.write(tmp_path, {"type": "FeatureCollection", "features": features})
        first, second, third = load_prompts(file)
        assert first.prompts[0].points == ((10, 20, True),)
        assert second.prompts[0].points == ((1.5, 0.5, False), (3.5, 2.5, False))
        assert third.prompts[0].box == (10, 20, 30, 40)

    def test_features_of_one_object_on_its_plane(self, tmp_path: Path) -> None:
        plane = {"c": -1, "z": 3, "t": 1}
        features = [
            feature("Point", [5, 5], plane=plane, object_id=7),
            feature("Polygon", SQUARE, plane=plane, object_id=7),
        ]
        (one,) = load_prompts(self.write(tmp_path, features), axes="TZYX")
        assert one == SavedObject(
            id=7, prompts=(FramePrompts(index=(1, 3), points=((4.5, 4.5, True),), box=(10, 20, 30, 40)),)
        )

    @pytest.mark.parametrize(
        ("content", "error", "message"),
        [
            (
                [feature("Polygon", [[[0, 0], [5, 1], [4, 6], [0, 5], [0, 0]]])],
                PromptError,
                "feature 1, a Polygon",
            ),
            ([feature("LineString", [[0, 0], [5, 1]])], PromptError, "LineString"),
            ([], PromptError, "no prompt"),
            ([{}], FileFormatError, "geometry"),
            ([feature("Point", ["a", "b"])], FileFormatError, "GeoJSON"),
            ([feature("Point", [])], FileFormatError, "GeoJSON"),
            (3, FileFormatError, "GeoJSON"),
        ],
    )
    def test_what_is_no_prompt(
        self, tmp_path: Path, content: object, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            load_prompts(self.write(tmp_path, content))


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="accepted"):
        load_prompts(tmp_path / "a.xlsx")
    for name in ("a.csv", "a.geojson", "a.segany.json"):
        with pytest.raises(FileFormatError, match=name):
            load_prompts(tmp_path / name)

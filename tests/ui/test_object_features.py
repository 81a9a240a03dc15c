import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from napari.layers import Labels

from napari_segany.session.objects import CommittedObject, ObjectTable
from napari_segany.ui import hooks
from napari_segany.ui.class_box import join_classes, parse_classes
from napari_segany.ui.class_colours import NO_CLASS, ClassColours, colour_of_class, legend
from napari_segany.ui.object_features import known_of, merged, show_objects, table_of

NAMES = st.text(alphabet="abc é<&", max_size=6)
TABLES = st.dictionaries(
    st.integers(1, 50),
    st.tuples(NAMES, st.one_of(st.just(math.nan), st.floats(0, 1, width=16)), st.integers(0, 6)),
    max_size=6,
).map(lambda rows: ObjectTable({label: CommittedObject(label, *row) for label, row in sorted(rows.items())}))


def same(a: ObjectTable, b: ObjectTable) -> bool:
    return [row.to_json() for row in a.rows.values()] == [row.to_json() for row in b.rows.values()]


@given(table=TABLES)
def test_a_table_survives_as_features(table: ObjectTable) -> None:
    assert same(table_of(table.features()), table)


@given(table=TABLES, others=st.dictionaries(st.integers(1, 50), st.floats(0, 9), max_size=5))
def test_columns_of_other_programs_stay(table: ObjectTable, others: dict[int, float]) -> None:
    columns = {"index": list(others), "area": list(others.values())}
    whole = merged(columns, table)
    assert all(len(column) == len(whole["index"]) for column in whole.values())
    areas = dict(zip(whole["index"].tolist(), whole["area"].tolist(), strict=True))
    assert {label: area for label, area in areas.items() if label in others} == others
    named = {label: row.name for label, row in table.rows.items() if row.name}
    found = dict(zip(whole["index"].tolist(), whole["class"].tolist(), strict=True))
    assert {label: name for label, name in found.items() if name} == named


def test_features_of_a_layer_are_read_and_written() -> None:
    layer = Labels(np.zeros((4, 4), dtype=np.uint32), features={"index": [2, 3], "note": ["a", "b"]})
    assert known_of(layer).rows == {}
    show_objects(layer, ObjectTable({3: CommittedObject(3, "nucleus", 0.5, 4)}))
    assert layer.features["note"].tolist() == ["a", "b"]
    assert layer.features["class"].tolist() == ["", "nucleus"]
    assert known_of(layer).rows[3] == CommittedObject(3, "nucleus", 0.5, 4)


def test_naparis_own_way_to_save_labels_keeps_the_class(tmp_path) -> None:
    features = {"index": [1, 2], "class": ["nucleus", ""], "area": [5.0, math.nan]}
    layer = Labels(np.eye(8, dtype=np.uint32), features=features)
    data, meta, _ = layer.as_layer_data_tuple()
    (path,) = hooks.write_labels(str(tmp_path / "a.ome.zarr"), data, meta)
    ((_, how, _),) = hooks.read(path)
    assert list(how["features"]["class"]) == ["nucleus", ""] and how["features"]["area"][0] == 5.0


class TestColours:
    def test_depend_on_the_name_alone(self) -> None:
        assert colour_of_class("Nucleus ") == colour_of_class("nucleus") != colour_of_class("cell")
        assert colour_of_class("") == colour_of_class("  ") == NO_CLASS
        assert colour_of_class("nucleus") == pytest.approx(colour_of_class("nucleus"))

    def test_of_common_names_can_be_told_apart(self) -> None:
        names = ["nucleus", "nucleolus", "cell", "colony", "vesicle", "granule", "membrane", "cytoplasm"]
        colours = np.array([colour_of_class(name) for name in names])
        distances = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + np.eye(len(names))
        assert distances.min() > 0.15

    def test_come_and_go_also_for_a_later_session(self) -> None:
        layer = Labels(np.eye(4, dtype=np.uint32))
        usual, table = layer.colormap, ObjectTable({1: CommittedObject(1, "cell")})
        ClassColours(layer).show(table)
        assert layer.colormap.map(1)[:3] == pytest.approx(colour_of_class("cell"), abs=0.01)
        assert layer.colormap.map(7)[:3] == pytest.approx(NO_CLASS, abs=0.01)
        later = ClassColours(layer)
        assert later.is_on
        later.hide()
        assert layer.colormap is usual and not later.is_on

    def test_are_explained(self) -> None:
        rows = {i: CommittedObject(i, name) for i, name in enumerate(["a<b", "cell", "a<b", ""], start=1)}
        text = legend(ObjectTable(rows))
        assert "a&lt;b&nbsp;(2)" in text and "cell&nbsp;(1)" in text and text.count("■") == 2
        assert legend(ObjectTable()) == ""


@given(names=st.lists(st.text(alphabet="ab c", min_size=1).map(lambda t: " ".join(t.split())), unique=True))
def test_lines_of_classes_are_read_as_they_are_written(names: list[str]) -> None:
    names = [name for name in names if name]
    assert parse_classes(join_classes(names)) == tuple(names)
    assert parse_classes(" , ".join([*names, *names])) == tuple(names)

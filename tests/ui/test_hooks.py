import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from napari.layers import Image, Labels, Layer

from napari_segany.core.axes import Calibration
from napari_segany.core.masks import paint_object
from napari_segany.io.label_store import LabelStore
from napari_segany.ui import hooks
from napari_segany.ui.target import STORE_KEY


def layers_from(path: Path) -> list[Layer]:
    reader = hooks.get_reader(str(path))
    assert reader is not None
    return [Layer.create(*data) for data in reader(str(path)) if "channel_axis" not in data[1]]


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.json", "a.zarr"])
def test_other_files_are_left_to_other_readers(name: str) -> None:
    assert hooks.get_reader(name) is None
    assert hooks.get_reader(["a.ome.tif", "b.ome.tif"]) is None


def test_labels_written_come_back_in_their_place(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 9, (3, 20, 30)).astype(np.uint8)
    how = {
        "scale": (2, 0.5, 0.5),
        "translate": (1, 2, 3),
        "units": ("um",) * 3,
        "axis_labels": ("z", "y", "x"),
    }
    layer = Labels(array, **how)
    data, meta, _ = layer.as_layer_data_tuple()
    (path,) = hooks.write_labels(str(tmp_path / "out.ome.zarr"), data, meta)
    (back,) = layers_from(Path(path))
    assert isinstance(back, Labels) and back.name == "out" and back.editable
    assert np.array_equal(np.asarray(back.data), array) and back.data.dtype == np.uint32
    assert np.allclose(back.scale, layer.scale) and np.allclose(back.translate, layer.translate)
    assert back.units == layer.units and back.axis_labels == layer.axis_labels


def test_edits_of_opened_labels_reach_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "cells.ome.zarr"
    LabelStore.create(path, shape=(20, 30), calibration=Calibration("YX")).close()
    (layer,) = layers_from(path)
    layer.paint((10, 10), 4)
    with LabelStore.open(Path(layer.metadata[STORE_KEY])) as store:
        assert store.array[10, 10] == 4 and store.max_label() == 4


def test_ome_tiff_with_its_calibration(tmp_path: Path) -> None:
    data = np.random.default_rng(1).integers(0, 4000, (4, 20, 30), dtype=np.uint16)
    path = tmp_path / "stack.ome.tif"
    metadata = {"axes": "ZYX", "PhysicalSizeX": 0.2, "PhysicalSizeY": 0.3, "PhysicalSizeZ": 1.5}
    units = {f"PhysicalSize{axis}Unit": "µm" for axis in "XYZ"}
    tifffile.imwrite(path, data, metadata={**metadata, **units})
    (layer,) = layers_from(path)
    assert isinstance(layer, Image) and np.array_equal(np.asarray(layer.data), data)
    assert np.allclose(layer.scale, (1.5, 0.3, 0.2)) and layer.axis_labels == ("z", "y", "x")


def test_channels_become_layers(tmp_path: Path) -> None:
    path = tmp_path / "two.ome.tif"
    tifffile.imwrite(path, np.zeros((2, 20, 30), dtype=np.uint16), metadata={"axes": "CYX"})
    ((_, how, kind),) = hooks.read(str(path))
    assert kind == "image" and how["channel_axis"] == 0 and len(how["name"]) == 2


def test_images_with_labels_in_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.ome.zarr"
    hooks.write_labels(str(path), np.ones((20, 30), dtype=np.uint32), {})
    image = (np.zeros((20, 30)), {"name": "out"}, "image")
    monkeypatch.setattr(hooks, "_is_labels", lambda folder: False)
    monkeypatch.setattr(hooks, "label_names", lambda folder: ["cells", "nuclei"])
    monkeypatch.setattr(hooks, "image_layer", lambda opened, name: image)
    monkeypatch.setattr(hooks, "labels_layer", lambda group, name: (group, {"name": name}, "labels"))
    found = hooks.read(str(path))
    assert [how["name"] for _, how, _ in found] == ["out", "cells", "nuclei"]


def test_saved_states_give_clicks_boxes_and_labels(tmp_path: Path) -> None:
    store = LabelStore.create(tmp_path / "cells.ome.zarr", shape=(2, 20, 30), calibration=Calibration("ZYX"))
    store.write(paint_object(store, np.eye(20, 30, dtype=bool), label_id=1, index=(1,)))
    store.close()
    frame = {"index": [1], "points": [[3, 4, True], [5, 6, False]], "box": [1, 2, 9, 10]}
    state = {
        "segany": 1,
        "image": {"path": "", "shape": [2, 20, 30], "axes": "ZYX", "scale": [2, 0.5, 0.5]},
        "objects": [{"id": 1, "prompts": [frame]}],
        "labels": {"path": "cells.ome.zarr"},
    }
    (tmp_path / "work.segany.json").write_text(json.dumps(state))
    labels, shapes, points = layers_from(tmp_path / "work.segany.json")
    assert np.asarray(labels.data).sum() == 20
    assert np.allclose(points.data, [[1, 3, 4], [1, 5, 6]]) and np.allclose(points.scale, (2, 0.5, 0.5))
    assert points.features["prompt"].tolist() == ["positive", "negative"]
    assert np.allclose(np.unique(shapes.data[0][:, 1]), [0.5, 8.5]) and (shapes.data[0][:, 0] == 1).all()


@pytest.mark.parametrize("name", [name for name in dir(hooks) if name.startswith("sample_")])
def test_samples_are_images_that_layers_take(name: str) -> None:
    layers = [Layer.create(*data) for data in getattr(hooks, name)()]
    assert isinstance(layers[0], Image) and min(layers[0].data.shape[:2]) > 100

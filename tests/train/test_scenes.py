"""Procedural scenes: the same for a seed, masks exact and nested, images as cameras give them."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from skimage import io
from skimage.morphology import dilation, disk

from napari_segany.core.errors import DataError, ImageError
from napari_segany.train.canvas import Canvas
from napari_segany.train.scenes import (
    KINDS,
    THIN_KINDS,
    Scene,
    SceneObject,
    export_scenes,
    render_scene,
    scene_stream,
)
from napari_segany.train.shapes import BlobForm, Patch, blob, partition, scatter, tube

SIZES = [(64, 64), (97, 201), (256, 256)]
PRIMARY_KINDS = {
    "fluorescence": {"nucleus"},
    "composite": {"cell"},
    "membrane": {"cell"},
    "phase": {"cell", "bacterium", "yeast", "bud", "neuron"},
    "brightfield": {"nucleus", "organoid", "yeast"},
    "histology": {"nucleus"},
    "em": {"cell"},
    "filaments": {"filament"},
    "spots": {"spot"},
    "neurites": {"neuron"},
    "vessels": {"vessel"},
    "cilia": {"cell", "bacterium"},
}


def full_mask(thing: SceneObject, size: tuple[int, int]) -> np.ndarray:
    """Return an object's mask in the whole image."""
    mask = np.zeros(size, dtype=bool)
    mask[thing.mask_rows, thing.mask_cols] = thing.mask
    return mask


def disc(row: float, col: float, radius: float, size: tuple[int, int] = (64, 64)) -> Patch:
    """Return a circle's outline."""
    patch = blob(
        np.random.default_rng(0), (row, col), diameter=2 * radius, shape=size, form=BlobForm(1.0, 0.0)
    )
    assert patch is not None
    return patch


def full_of(patch: Patch) -> np.ndarray:
    """Return an outline's mask in an image of 64 x 64."""
    mask = np.zeros((64, 64), dtype=bool)
    mask[patch.box] = patch.mask
    return mask


def test_every_kind_is_known_here() -> None:
    assert {*KINDS, *THIN_KINDS} == set(PRIMARY_KINDS)


@pytest.mark.parametrize("kind", PRIMARY_KINDS)
class TestEveryKind:
    @pytest.mark.parametrize("size", SIZES)
    def test_objects_are_exact(self, kind: str, size: tuple[int, int]) -> None:
        for seed in range(3):
            scene = render_scene(seed, kind=kind, size=size)
            assert scene.kind == kind
            assert scene.image.shape[:2] == size == scene.labels.shape
            assert scene.image.shape[2:] in ((), (3,))
            assert scene.objects
            for number, thing in enumerate(scene.objects):
                assert 0 <= thing.mask_rows.start < thing.mask_rows.stop <= size[0]
                assert 0 <= thing.mask_cols.start < thing.mask_cols.stop <= size[1]
                assert thing.mask.sum() >= 12
                assert thing.mask.any(axis=1)[[0, -1]].all(), "the box is tight"
                assert thing.mask.any(axis=0)[[0, -1]].all(), "the box is tight"
                assert -1 <= thing.part_of < number
                if thing.part_of >= 0:
                    parent = scene.objects[thing.part_of]
                    assert parent.level >= thing.level
                    outside = full_mask(thing, size) & ~full_mask(parent, size)
                    assert not outside.any(), f"{thing.kind} sticks out of {parent.kind}"

    def test_is_the_same_for_a_seed(self, kind: str) -> None:
        first, second = (render_scene(7, kind=kind, size=(97, 80)) for _ in range(2))
        assert first.image.dtype == second.image.dtype
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.labels, second.labels)
        assert [thing.kind for thing in first.objects] == [thing.kind for thing in second.objects]
        other = render_scene(8, kind=kind, size=(97, 80))
        assert other.labels.shape == first.labels.shape
        assert (other.labels != first.labels).any()

    def test_labels_are_the_primary_objects(self, kind: str) -> None:
        for seed in range(3):
            scene = render_scene(seed, kind=kind, size=(128, 160))
            assert scene.labels.dtype == np.uint32
            primary = [thing for thing in scene.objects if thing.kind in PRIMARY_KINDS[kind]]
            assert primary
            assert scene.labels.max() == len(primary)
            covered = np.zeros(scene.labels.shape, dtype=bool)
            for number, thing in enumerate(primary, start=1):
                mask = full_mask(thing, scene.labels.shape)
                covered |= mask
                assert mask[scene.labels == number].all()
                assert scene.labels[mask].min() >= 1
            np.testing.assert_array_equal(covered, scene.labels > 0)

    def test_images_are_what_cameras_give(self, kind: str) -> None:
        for seed in range(12):
            image = render_scene(seed, kind=kind, size=(64, 64)).image
            assert image.dtype in (np.uint8, np.uint16, np.float32)
            assert np.isfinite(image).all()
            assert image.max() > image.min()
            if image.dtype == np.float32:
                assert image.min() > -0.5
                assert image.max() < 5

    def test_takes_any_diameter(self, kind: str) -> None:
        for diameter in (6.0, 200.0):
            assert render_scene(1, kind=kind, size=(96, 96), object_diameter=diameter).labels.any()


def contrasts(scene: Scene) -> list[float]:
    """Return how much brighter or darker each primary object is than a ring around it, in deviations."""
    image = scene.image.astype(np.float64).reshape(*scene.labels.shape, -1).mean(axis=2)
    found = []
    for number in range(1, int(scene.labels.max()) + 1):
        inside = scene.labels == number
        ring = dilation(inside, disk(3)) & (scene.labels == 0)
        if inside.sum() >= 12 and ring.sum() >= 12:
            spread = 0.5 * (image[inside].std() + image[ring].std()) + 1e-9
            found.append(abs(image[inside].mean() - image[ring].mean()) / spread)
    return found


@pytest.mark.parametrize(
    "kind", ["fluorescence", "composite", "histology", "em", "filaments", "spots", "neurites", "cilia"]
)
def test_objects_stand_out_from_what_is_around_them(kind: str) -> None:
    values = [value for seed in range(6) for value in contrasts(render_scene(seed, kind=kind))]
    assert len(values) > 30
    assert np.mean(np.array(values) > 0.5) > 0.85


def test_membranes_are_brighter_than_cells() -> None:
    brighter = []
    for seed in range(8):
        scene = render_scene(seed, kind="membrane", size=(128, 128), object_diameter=32)
        image = scene.image.astype(float)
        inner = np.zeros(scene.labels.shape, dtype=bool)
        for thing in scene.objects:
            if thing.kind == "cell":
                inner |= ~dilation(~full_mask(thing, scene.labels.shape), disk(5))
        border = dilation(scene.labels, disk(1)) != scene.labels
        brighter.append(np.median(image[border]) > np.median(image[inner]))
    assert sum(brighter) >= 6, "all but the few that are shown inverted"


def test_mask_edge_is_the_half_maximum() -> None:
    canvas = Canvas((64, 64), np.random.default_rng(0), background=0.0)
    patch = disc(30.3, 33.8, 12)
    canvas.add_object(patch, level=3, kind="nucleus")
    canvas.paint(patch, 1.0)
    (nucleus,) = canvas.objects(canvas.light)
    np.testing.assert_array_equal(full_mask(nucleus, (64, 64)), canvas.light > 0.5)
    assert nucleus.mask.sum() == pytest.approx(np.pi * 144, rel=0.02)


class TestOverlap:
    def test_upper_object_owns_the_pixels(self) -> None:
        canvas = Canvas((64, 64), np.random.default_rng(0), background=0.0)
        canvas.add_object(disc(30, 24, 12), level=4, kind="cell")
        canvas.add_object(disc(30, 38, 12), level=4, kind="cell")
        lower, upper = canvas.objects(canvas.light)
        assert not (full_mask(lower, (64, 64)) & full_mask(upper, (64, 64))).any()
        assert upper.mask.sum() > lower.mask.sum()

    def test_hidden_object_is_left_out_with_its_parts(self) -> None:
        canvas = Canvas((64, 64), np.random.default_rng(0), background=0.0)
        cell = canvas.add_object(disc(30, 30, 12), level=4, kind="cell")
        canvas.add_object(disc(30, 30, 5), level=3, kind="nucleus", parent=cell)
        upper = disc(30, 36, 14)
        canvas.add_object(upper, level=4, kind="cell")
        left = full_of(disc(30, 30, 12)) & ~full_of(upper)
        assert 12 < left.sum() < 0.4 * disc(30, 30, 12).mask.sum(), "a crescent is left, too little of it"
        (seen,) = canvas.objects(canvas.light)
        assert seen.mask.sum() == upper.mask.sum()

    def test_part_ends_where_its_parent_does(self) -> None:
        canvas = Canvas((64, 64), np.random.default_rng(0), background=0.0)
        cell = canvas.add_object(disc(30, 30, 10), level=4, kind="cell")
        canvas.add_object(disc(30, 37, 6), level=3, kind="nucleus", parent=cell)
        parent, part = (full_mask(thing, (64, 64)) for thing in canvas.objects(canvas.light))
        np.testing.assert_array_equal(part, full_of(disc(30, 37, 6)) & parent)
        assert part.sum() < disc(30, 37, 6).mask.sum()

    def test_coarse_object_hides_finer_ones_under_it(self) -> None:
        canvas = Canvas((64, 64), np.random.default_rng(0), background=0.0)
        canvas.add_object(disc(30, 30, 6), level=3, kind="nucleus")
        gland = canvas.add_object(disc(30, 33, 14), level=5, kind="gland")
        canvas.add_object(disc(30, 36, 5), level=3, kind="nucleus", parent=gland)
        assert [thing.kind for thing in canvas.objects(canvas.light)] == ["gland", "nucleus"]

    def test_clear_object_hides_nothing(self) -> None:
        canvas = Canvas((64, 64), np.random.default_rng(0), background=0.0)
        canvas.add_object(disc(30, 30, 12), level=4, kind="cell")
        canvas.add_object(disc(30, 33, 14), level=4, kind="cell", is_clear=True)
        assert len(canvas.objects(canvas.light)) == 2

    def test_group_is_its_members_and_the_gaps(self) -> None:
        canvas = Canvas((64, 64), np.random.default_rng(0), background=0.0)
        group = canvas.add_group(level=6, kind="colony", gap=4)
        for col in (14, 28, 42):
            canvas.add_object(disc(30, col, 6), level=4, kind="cell", parent=group)
        colony, *cells = canvas.objects(canvas.light)
        assert [cell.part_of for cell in cells] == [0, 0, 0]
        assert colony.kind == "colony"
        assert full_mask(colony, (64, 64))[30, 21], "the gap of two pixels between neighbours"
        assert sum(cell.mask.sum() for cell in cells) < colony.mask.sum() < 56 * 14

    def test_invisible_part_is_left_out(self) -> None:
        canvas = Canvas((64, 64), np.random.default_rng(0), background=0.0)
        nucleus = canvas.add_object(disc(30, 30, 14), level=3, kind="nucleus")
        canvas.add_object(disc(26, 26, 3), level=1, kind="nucleolus", parent=nucleus)
        canvas.add_object(disc(35, 35, 3), level=1, kind="nucleolus", parent=nucleus)
        canvas.paint(disc(30, 30, 14), 0.5)
        canvas.paint(disc(35, 35, 3), 1.0)
        kept = canvas.objects(canvas.light)
        assert [thing.kind for thing in kept] == ["nucleus", "nucleolus"]
        assert full_mask(kept[1], (64, 64))[35, 35]


class TestShapes:
    def test_tube_has_its_width(self) -> None:
        points = np.stack([np.full(60, 20.25), np.linspace(10, 50, 60)], axis=1)
        line = tube(points, width=6.0, shape=(64, 64))
        assert line is not None
        across = line.mask[:, 20]
        assert across.sum() == 6
        assert line.field.max() == pytest.approx(3, abs=0.5)

    def test_nothing_outside_the_image(self) -> None:
        rng = np.random.default_rng(0)
        assert blob(rng, (-40, 20), diameter=20, shape=(64, 64)) is None
        clipped = blob(rng, (0, 0), diameter=20, shape=(64, 64))
        assert clipped is not None
        assert (clipped.row0, clipped.col0) == (0, 0)

    def test_partition_gives_each_pixel_to_the_nearest(self) -> None:
        rng = np.random.default_rng(3)
        points = scatter(rng, shape=(60, 80), spacing=14, jitter=0.2)
        flat, none = np.zeros((2, 60, 80), dtype=np.float32), np.zeros(len(points))
        cut = partition(points, shape=(60, 80), spacing=14, warp=flat, weights=none)
        rows, cols = np.mgrid[:60, :80]
        away = np.hypot(rows - points[:, 0, None, None], cols - points[:, 1, None, None])
        clear = np.sort(away, axis=0)[1] - np.sort(away, axis=0)[0] > 1e-3
        np.testing.assert_array_equal(cut.owner[clear], away.argmin(axis=0)[clear])


def test_all_levels_and_bit_depths_occur() -> None:
    scenes = list(islice(scene_stream(5, size=(128, 128)), 120))
    assert {thing.level for scene in scenes for thing in scene.objects} == {1, 2, 3, 4, 5, 6}
    assert {scene.image.dtype.name for scene in scenes} == {"uint8", "uint16", "float32"}
    assert {scene.kind for scene in scenes} == set(KINDS)
    depth = [len(chain_of(scene, thing)) for scene in scenes for thing in scene.objects]
    assert max(depth) >= 3, "parts of parts of parts"


def chain_of(scene: Scene, thing: SceneObject) -> list[SceneObject]:
    """Return an object and its parents, inside out."""
    chain = [thing]
    while chain[-1].part_of >= 0:
        chain.append(scene.objects[chain[-1].part_of])
    return chain


def test_stream_is_the_same_for_a_seed() -> None:
    first, second = (list(islice(scene_stream(3, size=(64, 64), kinds=("em", "phase")), 4)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert one.kind == other.kind
        np.testing.assert_array_equal(one.image, other.image)
    assert {scene.kind for scene in first} <= {"em", "phase"}
    assert any((first[0].labels != scene.labels).any() for scene in first[1:])


def test_export_can_be_read_back(tmp_path: Path) -> None:
    kinds = ("fluorescence", "histology", "spots")
    export_scenes(tmp_path / "set", count=12, seed=2, size=(64, 72), kinds=kinds)
    modality = json.loads((tmp_path / "set" / "modality.json").read_text())
    images = sorted((tmp_path / "set" / "images").iterdir())
    assert len(images) == 12
    assert {path.stem for path in images} == set(modality)
    assert set(modality.values()) == set(kinds)
    for path in images:
        image, labels = io.imread(path), io.imread(tmp_path / "set" / "labels" / path.name)
        assert labels.dtype == np.uint16
        assert labels.shape == (64, 72) == image.shape[:2]
        assert labels.any()
        assert image.ndim == (3 if modality[path.stem] == "histology" else 2)
        assert (path.suffix == ".png") == (image.dtype == np.uint8)
    assert {path.suffix for path in images} == {".png", ".tif"}, "deep images among them"


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"seed": -1}, DataError),
        ({"seed": 0, "kind": "x-ray"}, DataError),
        ({"seed": 0, "size": (32, 256)}, ImageError),
        ({"seed": 0, "size": (256, 4096)}, ImageError),
        ({"seed": 0, "object_diameter": 3.0}, DataError),
    ],
)
def test_says_what_it_cannot_render(wrong: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error, match=r"must be|take one of"):
        render_scene(**wrong)  # type: ignore[arg-type]  # wrong on purpose


def test_object_checks_itself() -> None:
    mask = np.ones((4, 4), dtype=bool)
    with pytest.raises(DataError, match="box's shape"):
        SceneObject(slice(0, 4), slice(0, 5), mask, 3, "nucleus", -1)
    with pytest.raises(DataError, match="level"):
        SceneObject(slice(0, 4), slice(0, 4), mask, 7, "nucleus", -1)
    with pytest.raises(DataError, match="at least 12"):
        SceneObject(slice(0, 2), slice(0, 2), mask[:2, :2], 3, "nucleus", -1)

"""Folders, scenes and crops: exact masks in, crops as the model will see them out."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from annotated_images import disc_image, disc_labels, write_pair
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_segany.core.errors import DataError
from napari_segany.predict.zoom import LARGEST_SCALE
from napari_segany.train import crops, dataset
from napari_segany.train.crops import CropPlan, CropStream, augment_intensity, cut_crop
from napari_segany.train.dataset import (
    Annotated,
    annotate,
    from_clip,
    from_scene,
    is_validation,
    modality_of,
    pair_files,
    read_folder,
)
from napari_segany.train.movies import CLIP_KINDS, render_clip

PLAN = CropPlan(side=64, objects=3, frames=(128, 128))
GREY = np.random.default_rng(1).integers(0, 200, size=(64, 80), dtype=np.uint8)


# --- annotations


def test_every_id_of_a_label_map_is_an_object() -> None:
    labels = disc_labels()
    item = annotate("a", GREY, labels, modality="phase")
    assert len(item.objects) == labels.max() > 3
    for number, thing in enumerate(item.objects, start=1):
        whole = np.zeros(labels.shape, dtype=bool)
        whole[thing.box] = thing.mask
        assert np.array_equal(whole, labels == number)
        assert thing.is_primary


def test_ids_may_be_sparse_and_large() -> None:
    labels = disc_labels()
    sparse = np.where(labels > 0, 2**32 - 5 * labels.astype(np.int64), 0).astype(np.uint32)
    plain, wild = (annotate("a", GREY, each, modality="x").objects for each in (labels, sparse))
    assert sorted((o.box, o.mask.sum()) for o in wild) == sorted((o.box, o.mask.sum()) for o in plain)


def test_fragments_and_background_are_left_out() -> None:
    labels = np.zeros((30, 30), dtype=np.uint32)
    labels[0, :11] = 1  # one pixel short
    labels[2, :12] = 2
    assert [o.mask.sum() for o in annotate("a", GREY[:30, :30], labels, modality="x").objects] == [12]
    assert annotate("a", GREY, np.zeros(GREY.shape, dtype=np.uint32), modality="x").objects == ()
    filled = annotate("a", GREY, np.full(GREY.shape, 3, dtype=np.uint32), modality="x").objects
    assert [o.mask.sum() for o in filled] == [GREY.size]


def test_sizes_that_differ_are_an_error() -> None:
    with pytest.raises(DataError, match=r"odd: image \(64, 80\) and labels \(64, 79\)"):
        annotate("odd", GREY, np.zeros((64, 79), dtype=np.uint32), modality="x")


@pytest.mark.parametrize(
    ("image", "modality"),
    [
        (np.where(disc_labels() > 0, 200, 10).astype(np.uint8), "fluorescence"),
        (np.where(disc_labels() > 0, 3000, 40).astype(np.uint16)[..., None], "fluorescence"),
        (np.where(disc_labels() > 0, 90, 200).astype(np.uint8), "brightfield"),
        (np.where(disc_labels() > 0, 0.3, 0.8), "brightfield"),
        (np.stack([np.where(disc_labels() > 0, c, 230) for c in (120, 60, 160)], -1), "histology"),
        (np.stack([np.where(disc_labels() == i, 200, 4) for i in (1, 2, 3)], -1), "composite"),
        (np.repeat(np.where(disc_labels() > 0, 200, 10)[..., None], 4, -1), "fluorescence"),
    ],
)
def test_a_modality_is_guessed(image: np.ndarray, modality: str) -> None:
    assert modality_of(image) == modality


# --- folders


def test_a_folder_is_read_in_name_order(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, size=(64, 80, 3), dtype=np.uint8)
    labels = disc_labels().astype(np.uint16)
    write_pair(tmp_path, "b", image=(GREY * 20.0).astype(np.uint16), labels=labels)
    write_pair(tmp_path, "a", image=rgb, labels=labels, suffix="png")
    write_pair(
        tmp_path, "c", image=np.dstack([rgb, rgb[..., 0]]), labels=labels.astype(np.uint8), suffix="png"
    )
    write_pair(tmp_path, "alone", image=rgb, labels=labels, suffix="png")
    (tmp_path / "labels" / "alone.png").unlink()
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    (tmp_path / "modality.json").write_text(json.dumps({"b": "em"}))
    items = list(read_folder(tmp_path))
    assert [item.name for item in items] == ["a", "b", "c"]
    assert items[1].modality == "em"
    assert items[0].modality in ("histology", "composite")
    assert items[1].image.dtype == np.uint16
    assert items[2].image.shape == (64, 80, 3)
    for item in items:
        assert item.labels.dtype == np.uint32
        assert np.array_equal(item.labels, labels)
        assert len(item.objects) == labels.max()


def test_image_and_labels_may_have_different_suffixes(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", image=GREY, labels=disc_labels(), suffix="tif")
    (tmp_path / "images" / "a.tif").rename(tmp_path / "images" / "a.TIF")
    write_pair(tmp_path, "b", image=GREY, labels=disc_labels().astype(np.uint8), suffix="png")
    assert [image.stem for image, _ in pair_files(tmp_path)] == ["a", "b"]
    assert len(list(read_folder(tmp_path))) == 2


@pytest.mark.parametrize("missing", ["images", "labels", "both"])
def test_a_folder_of_another_form_is_refused(tmp_path: Path, missing: str) -> None:
    for part in {"images", "labels"} - {missing} if missing != "both" else ():
        (tmp_path / part).mkdir()
    with pytest.raises(DataError, match="images/ and labels/"):
        list(read_folder(tmp_path))
    with pytest.raises(DataError, match="nowhere"):
        list(read_folder(tmp_path / "nowhere"))


def test_a_folder_without_a_pair_is_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", image=GREY, labels=disc_labels())
    (tmp_path / "labels" / "a.tif").rename(tmp_path / "labels" / "b.tif")
    with pytest.raises(DataError, match="none of the 1 images"):
        list(read_folder(tmp_path))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (disc_labels().astype(np.float32), "float32"),
        (np.stack([disc_labels()] * 2), r"\(2, 64, 80\)"),
        (disc_labels((64, 70)), r"\(64, 70\)"),
        (disc_labels().astype(np.int32) - 1, "-1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, labels: np.ndarray, said: str) -> None:
    write_pair(tmp_path, "bad", image=GREY, labels=labels)
    with pytest.raises(DataError, match=f"bad.*{said}"):
        list(read_folder(tmp_path))


@pytest.mark.parametrize("suffix", ["tif", "png"])
@pytest.mark.parametrize("keep", [0, 4, 60])
def test_a_cut_off_file_is_named(tmp_path: Path, suffix: str, keep: int) -> None:
    write_pair(tmp_path, "cut", image=GREY, labels=disc_labels().astype(np.uint8), suffix=suffix)
    path = tmp_path / "images" / f"cut.{suffix}"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=rf"cut\.{suffix}"):
        list(read_folder(tmp_path))


@pytest.mark.parametrize("text", ["{broken", "[1, 2]", "3"])
def test_a_table_of_modalities_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    write_pair(tmp_path, "a", image=GREY, labels=disc_labels())
    (tmp_path / "modality.json").write_text(text)
    with pytest.raises(DataError, match=r"modality\.json"):
        list(read_folder(tmp_path))


def test_the_split_is_stable_and_a_fifth() -> None:
    names = [f"image_{n:04d}" for n in range(2000)]
    chosen = [name for name in names if is_validation(name)]
    assert 0.17 < len(chosen) / len(names) < 0.23
    # The second bytes of SHA-1 of these are 0x58, 0xf7 and 0xd7; only the last is a multiple of five.
    assert [is_validation(name) for name in ("0", "a", "b")] == [False, False, True]


# --- scenes


def test_a_scene_keeps_its_nested_objects() -> None:
    item = from_scene(3, size=(96, 128), kind="composite")
    assert item.image.shape[:2] == item.labels.shape == (96, 128)
    assert item.modality == "composite"
    assert any(o.is_primary for o in item.objects)
    for thing in item.objects:
        assert thing.mask.any()
        assert thing.mask.shape == item.labels[thing.box].shape
        if thing.is_primary:  # most of it is one and the same label
            inside = item.labels[thing.box][thing.mask]
            assert np.bincount(inside)[1:].max() > 0.5 * inside.size


@pytest.mark.parametrize("kind", CLIP_KINDS)
def test_a_frame_of_a_clip_is_an_image_like_others(kind: str) -> None:
    for seed in (12, 13):
        item = from_clip(seed, size=(96, 128), kind=kind)
        assert item.image.shape == item.labels.shape == (96, 128)
        assert item.modality == kind
        assert item.objects
        assert all(thing.is_primary and thing.mask.sum() >= 12 for thing in item.objects)
        clip = render_clip(seed, kind=kind, frames=1 + seed % 8, size=(96, 128))
        found = [np.array_equal(item.labels, labels) for labels in clip.labels]
        assert np.array_equal(item.image, clip.images[found.index(True)])
        assert len(np.unique(item.labels)) == max(len(np.unique(labels)) for labels in clip.labels)


# --- crops


def same_crops(one: crops.Crop, two: crops.Crop) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in ((one.pixels, two.pixels), (one.masks, two.masks), (one.dense, two.dense))
    )


def check_crop(crop: crops.Crop, plan: CropPlan) -> None:
    assert crop.pixels.shape == (3, plan.side, plan.side)
    assert crop.masks.shape == (plan.objects, plan.side, plan.side)
    assert crop.dense.shape == (2, plan.side, plan.side)
    assert crop.pixels.dtype == crop.dense.dtype == torch.float32
    assert crop.masks.dtype == crop.is_primary.dtype == torch.bool
    assert crop.is_primary.shape == (plan.objects,)
    for part in (crop.pixels, crop.dense):
        assert torch.isfinite(part).all()
        assert part.min() >= -1e-6
        assert part.max() <= 1 + 1e-6


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(21, 150), st.integers(21, 150)),
    radius=st.integers(3, 7),
    seed=st.integers(0, 2**31),
)
def test_any_image_gives_whole_crops(size: tuple[int, int], radius: int, seed: int) -> None:
    item = disc_image(size=size, radius=radius)
    one, two = (cut_crop(item, PLAN, np.random.default_rng(seed)) for _ in range(2))
    assert one is not None
    assert two is not None
    check_crop(one, PLAN)
    assert same_crops(one, two)
    assert one.masks[0].any()  # the object that the crop was cut around
    foreground = one.dense[0] > 0.5
    for mask in one.masks:  # discs do not touch: an object is a part of the foreground
        assert (mask & ~foreground).sum() <= 0.02 * mask.sum()


def test_seeds_give_different_crops() -> None:
    item = disc_image()
    crops = [cut_crop(item, PLAN, np.random.default_rng(seed)) for seed in range(4)]
    assert not any(same_crops(crops[0], other) for other in crops[1:])


def test_masks_lie_on_their_pixels() -> None:
    """Whatever was cut, zoomed, turned and flipped: objects are where the image is bright."""
    plan = CropPlan(side=64, objects=1, frames=(128, 128))
    item = disc_image()
    contrasts = []
    for seed in range(12):
        crop = cut_crop(item, plan, np.random.default_rng(seed))
        assert crop is not None
        inside, outside = crop.dense[0] > 0.9, crop.dense[0] < 0.1
        grey = crop.pixels.mean(0)
        on_object, apart = grey[crop.masks[0] & inside].mean(), grey[outside & (grey > 0)].mean()
        contrasts.append(float(abs(on_object - apart)))
    assert min(contrasts) > 0.15


def test_a_small_image_is_padded() -> None:
    plan = CropPlan(side=64, objects=1, frames=(32, 32), zoom=(1.0, 1.0))
    labels = np.zeros((20, 20), dtype=np.uint32)
    labels[2:18, 2:18] = 1
    item = annotate("small", np.full((20, 20), 9, dtype=np.uint8), labels, modality="x")
    crop = cut_crop(item, plan, np.random.default_rng(0))
    assert crop is not None
    check_crop(crop, plan)
    side = int(crop.masks[0].any(0).sum())
    assert side == pytest.approx(16 * 32 / 20, abs=1.5)  # at the scale of a 32-pixel frame
    rows, cols = crop.dense[0].any(1), crop.dense[0].any(0)
    assert rows.sum() <= 32
    assert cols.sum() <= 32  # the rest is padding, and empty


def test_zoom_stays_within_its_bounds() -> None:
    plan = CropPlan(side=64, objects=1, frames=(128, 128), zoom=(0.5, 2.0))
    item = disc_image(size=(128, 128), radius=10)  # 21 pixels
    rng = np.random.default_rng(0)
    scales = [crops.zoom_of(item.objects[0], (128, 128), plan, rng) for _ in range(300)]
    assert 0.5 * 1.3 > min(scales) >= 12 / 21 - 1e-9
    assert 0.8 * 2 < max(scales) <= 2.0
    for side, low, high in ((4, 12 / 4, None), (100, None, 2 * 64 / 100)):
        labels = np.zeros((128, 128), dtype=np.uint32)
        labels[:side, :side] = 1
        thing = annotate("x", labels.astype(np.uint8), labels, modality="x").objects[0]
        scales = [crops.zoom_of(thing, (128, 128), plan, rng) for _ in range(50)]
        assert low is None or min(scales) >= low - 1e-9  # never a dot
        assert high is None or max(scales) <= high + 1e-9  # nor so large that the crop is lost in it


def test_small_objects_are_shown_as_they_are_looked_at_again() -> None:
    plan = CropPlan(side=64, objects=1, frames=(128, 128), zoom=(1.0, 1.0), magnified=1.0)
    rng = np.random.default_rng(0)
    for radius, zoom in ((8, LARGEST_SCALE), (20, 2.0), (30, 1.0)):  # of 17, 41 and 61 frame pixels
        thing = disc_image(size=(128, 128), radius=radius).objects[0]
        scales = np.array([crops.zoom_of(thing, (128, 128), plan, rng) for _ in range(40)])
        assert np.all(np.abs(np.log(scales / zoom)) <= 0.2 + 1e-9)


def test_an_image_without_objects_gives_nothing() -> None:
    empty = annotate("none", GREY, np.zeros(GREY.shape, dtype=np.uint32), modality="x")
    assert cut_crop(empty, PLAN, np.random.default_rng(0)) is None


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_any_number_of_channels_gives_three(channels: int) -> None:
    image = np.repeat(GREY[..., None], channels, axis=-1)
    item = annotate("c", image, disc_labels(), modality="x")
    crop = cut_crop(item, PLAN, np.random.default_rng(0))
    assert crop is not None
    check_crop(crop, PLAN)


def test_parts_are_picked_by_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = from_scene(3, size=(96, 128), kind="composite")
    parts = [o for o in scene.objects if not o.is_primary]
    assert parts
    item = Annotated("s", "x", scene.image, scene.labels, scene.objects)
    window_around = crops.window_around
    anchors: list[bool] = []

    def spy(anchor: dataset.Annotation, *args: Any, **kwargs: Any) -> tuple[slice, slice]:
        anchors.append(anchor.is_primary)
        return window_around(anchor, *args, **kwargs)

    monkeypatch.setattr(crops, "window_around", spy)
    for share, is_primary in ((0.0, True), (1.0, False)):
        anchors.clear()
        for seed in range(6):
            crop = cut_crop(
                item,
                CropPlan(side=64, objects=1, frames=(128, 128), part_share=share),
                np.random.default_rng(seed),
            )
            assert crop is not None
            assert crop.is_primary.tolist() == [is_primary]
        assert anchors == [is_primary] * 6


def test_augmentation_stays_in_range_and_keeps_what_it_was_given() -> None:
    pixels = np.random.default_rng(0).random((3, 16, 20)).astype(np.float32)
    before = pixels.copy()
    for seed in range(60):
        out = augment_intensity(pixels, np.random.default_rng(seed))
        assert out.shape == pixels.shape
        assert out.dtype == np.float32
        assert 0 <= out.min() <= out.max() <= 1
    assert np.array_equal(pixels, before)


def test_grey_stays_grey_where_stains_are_mixed() -> None:
    grey = np.repeat(np.random.default_rng(1).random((1, 8, 8)).astype(np.float32), 3, axis=0)
    mixed = 0
    for seed in range(80):
        rng = np.random.default_rng(seed)
        out = augment_intensity(grey, rng)
        mixed += bool(np.allclose(out[0], out[1], atol=1e-5) and np.allclose(out[0], out[2], atol=1e-5))
    assert mixed > 30  # all but those whose channels were brightened apart


# --- streams


def test_a_stream_of_scenes_yields_valid_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    seeds: list[int] = []

    def small_scene(seed: int, *, size: tuple[int, int], kind: str | None = None) -> Annotated:
        seeds.append(seed)
        return from_scene(seed, size=(64, 64), kind=kind)

    monkeypatch.setattr(crops, "from_scene", small_scene)
    stream = CropStream([], PLAN, seed=3, pool=2)
    for pixels, masks, dense, is_primary in islice(stream, 8):
        check_crop(crops.Crop(pixels, masks, dense, is_primary), PLAN)
        assert masks.flatten(1).any(1).all()
    assert 2 <= len(seeds) < 8 + 2  # the pool is used again
    assert min(seeds) >= 1 << 32  # those below are for validation
    assert torch.get_num_threads() == threads


def test_a_stream_shows_frames_of_clips_where_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def scene(seed: int, *, size: tuple[int, int], kind: str) -> Annotated:
        asked.append(f"scene of {kind}")
        return disc_image()

    def clip(seed: int, *, size: tuple[int, int], kind: str) -> Annotated:
        assert seed >= 1 << 32  # those below are for validation
        asked.append(f"clip of {kind}")
        return disc_image()

    monkeypatch.setattr(crops, "from_scene", scene)
    monkeypatch.setattr(crops, "from_clip", clip)
    told = CropStream([], PLAN, seed=1, kinds=("em",), clip_kinds=("tubes",), clip_share=0.5)
    list(islice(told, 40))
    assert 10 <= asked.count("clip of tubes") <= 30
    assert asked.count("clip of tubes") + asked.count("scene of em") == len(asked)
    asked.clear()
    list(islice(CropStream([], PLAN, seed=1, kinds=("em",)), 40))
    assert set(asked) == {"scene of em"}


def test_a_stream_repeats_by_its_seed() -> None:
    images = [disc_image("one"), disc_image("three", size=(50, 50))]
    one, two, three = (
        list(islice(CropStream(images, PLAN, seed=seed, scene_share=0.0), 3)) for seed in (1, 1, 2)
    )
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0][0], three[0][0])


@pytest.mark.timeout(60)
def test_images_without_objects_do_not_stop_a_stream() -> None:
    empty = annotate("none", GREY, np.zeros(GREY.shape, dtype=np.uint32), modality="x")
    crops = list(islice(CropStream([empty, disc_image()], PLAN, seed=0, scene_share=0.0), 3))
    assert len(crops) == 3
    assert CropStream([empty], PLAN, seed=0, scene_share=0.0).scene_share == 1.0


def test_rare_modalities_count_more() -> None:
    images = [disc_image("a", modality="common")] * 9 + [disc_image("b", modality="rare")]
    weights = crops._balance(images)
    assert weights.sum() == pytest.approx(1)
    assert weights[-1] / weights[0] == pytest.approx(3)

"""Procedural movies and z-stacks: exact labels, identities that last, divisions, and what a camera gives."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from napari_segany.core.errors import DataError, ImageError
from napari_segany.train.canvas import Canvas
from napari_segany.train.films import filmed
from napari_segany.train.looks import Look
from napari_segany.train.motion import Habits, Troupe
from napari_segany.train.movies import (
    CLIP_KINDS,
    MOVIE_KINDS,
    STACK_KINDS,
    Clip,
    clip_stream,
    export_clips,
    render_clip,
)
from napari_segany.train.poses import Pose, labelled, outline_of, traced
from napari_segany.train.shapes import Patch

GLOWING = ("nuclei", "cells", "blobs", "tubes")


def numbers_of(labels: np.ndarray) -> set[int]:
    """Return the objects that a label image shows."""
    return {int(number) for number in np.unique(labels)} - {0}


def round_pose(number: int, centre: tuple[float, float], *, radius: float, height: float = 0.0) -> Pose:
    """Return a circle."""
    return Pose(number, centre, 0.0, radius, radius, outline_of(np.zeros(5, dtype=complex)), 0.5, height)


@pytest.mark.parametrize("kind", CLIP_KINDS)
class TestEveryKind:
    @pytest.mark.parametrize(("frames", "size"), [(1, (64, 64)), (7, (97, 141))])
    def test_has_the_shape_that_was_asked_for(self, kind: str, frames: int, size: tuple[int, int]) -> None:
        for seed in range(3):
            clip = render_clip(seed, kind=kind, frames=frames, size=size)
            assert clip.images.shape == clip.labels.shape == (frames, *size)
            assert len(clip) == frames
            assert clip.labels.dtype == np.uint32
            assert clip.kind == kind
            assert clip.axis == ("t" if kind in MOVIE_KINDS else "z")

    def test_is_the_same_for_a_seed(self, kind: str) -> None:
        first, second = (render_clip(5, kind=kind, frames=4, size=(80, 96)) for _ in range(2))
        assert first.images.dtype == second.images.dtype
        np.testing.assert_array_equal(first.images, second.images)
        np.testing.assert_array_equal(first.labels, second.labels)
        assert first.parents == second.parents
        other = render_clip(6, kind=kind, frames=4, size=(80, 96))
        assert (other.labels != first.labels).any()

    def test_objects_are_numbered_without_gaps_and_have_enough_pixels(self, kind: str) -> None:
        for seed in range(4):
            clip = render_clip(seed, kind=kind, frames=6, size=(128, 128))
            assert numbers_of(clip.labels) == set(range(1, int(clip.labels.max()) + 1))
            for labels in clip.labels:
                areas = np.bincount(labels.ravel())[1:]
                assert (areas[areas > 0] >= 12).all()

    def test_images_are_what_cameras_give(self, kind: str) -> None:
        for seed in range(6):
            images = render_clip(seed, kind=kind, frames=2, size=(64, 64)).images
            assert images.dtype in (np.uint8, np.uint16, np.float32)
            assert np.isfinite(images).all()
            assert images.max() > images.min()
            if images.dtype == np.float32:
                assert images.min() > -0.5
                assert images.max() < 6

    def test_objects_stay_near_where_they_were(self, kind: str) -> None:
        """An identity that jumps to another body would overlap with nothing of its own."""
        kept = []
        for seed in range(4):
            clip = render_clip(seed, kind=kind, frames=6, size=(160, 160))
            for now, then in zip(clip.labels, clip.labels[1:], strict=False):
                for number in numbers_of(now) & numbers_of(then):
                    before = ndimage.binary_dilation(now == number, iterations=15)
                    kept.append(bool((before & (then == number)).any()))
        assert np.mean(kept) > 0.98


@pytest.mark.parametrize("kind", GLOWING)
def test_labels_lie_on_what_shines(kind: str) -> None:
    brighter = []
    for seed in range(5):
        clip = render_clip(seed, kind=kind, frames=5, size=(128, 128))
        for image, labels in zip(clip.images.astype(np.float64), clip.labels, strict=True):
            for number in numbers_of(labels):
                inside = labels == number
                ring = ndimage.binary_dilation(inside, iterations=6) & (labels == 0)
                if inside.sum() >= 40 and ring.sum() >= 40:
                    brighter.append(image[inside].mean() > image[ring].mean())
    assert len(brighter) > 40
    assert np.mean(brighter) > 0.9


@pytest.mark.parametrize("kind", ["sheet", "shells"])
def test_borders_shine_where_membranes_do(kind: str) -> None:
    brighter = []
    for seed in range(8):
        clip = render_clip(seed, kind=kind, frames=3, size=(128, 128))
        image, labels = clip.images[1].astype(np.float64), clip.labels[1]
        edge = ndimage.grey_dilation(labels, size=3) != ndimage.grey_erosion(labels, size=3)
        inside = (labels > 0) & ~ndimage.binary_dilation(edge, iterations=4)
        if inside.sum() > 100:
            brighter.append(np.mean(image[edge]) > np.median(image[inside]))
    assert np.mean(brighter) > 0.85


def test_labels_end_where_light_falls_to_one_half() -> None:
    canvas = Canvas((64, 64), np.random.default_rng(0), background=0.0)
    body = traced(round_pose(3, (30.3, 33.8), radius=12), shape=(64, 64), margin=4)
    assert body is not None
    canvas.paint(body.patch, 1.0)
    labels = labelled([(3, body.patch)], shape=(64, 64))
    np.testing.assert_array_equal(labels == 3, canvas.light > 0.5)
    assert (labels == 3).sum() == pytest.approx(np.pi * 144, rel=0.02)
    assert body.patch.field[body.patch.mask].max() == pytest.approx(12, abs=0.7)


class TestLabels:
    def test_upper_body_owns_the_pixels_and_slivers_are_dropped(self) -> None:
        lower, upper = (traced(round_pose(n, (30, c), radius=10), shape=(64, 64), margin=3)
                        for n, c in ((1, 24.0), (2, 34.0)))  # fmt: skip
        assert lower is not None
        assert upper is not None
        labels = labelled([(1, lower.patch), (2, upper.patch)], shape=(64, 64))
        assert (labels == 2).sum() == upper.patch.mask.sum()
        assert 100 < (labels == 1).sum() < lower.patch.mask.sum()
        sliver = Patch(0, 0, np.ones((2, 5), dtype=np.float32))
        assert numbers_of(labelled([(1, lower.patch), (7, sliver)], shape=(64, 64))) == {1}

    def test_bodies_outside_are_not_traced(self) -> None:
        assert traced(round_pose(1, (-40, 20), radius=12), shape=(64, 64), margin=3) is None
        edge = traced(round_pose(1, (0, 20), radius=12), shape=(64, 64), margin=3)
        assert edge is not None
        assert edge.patch.row0 == 0
        assert 15 <= edge.patch.field.shape[0] <= 18

    def test_rods_have_round_ends_and_turn(self) -> None:
        straight = Pose(
            1, (32.3, 32.4), np.pi / 2, 16.0, 5.0, outline_of(np.zeros(5, dtype=complex)), 0.5, 0.0, True
        )
        body = traced(straight, shape=(64, 64), margin=3)
        assert body is not None
        labels = labelled([(1, body.patch)], shape=(64, 64))
        rows, cols = np.nonzero(labels)
        assert rows.max() - rows.min() == pytest.approx(32, abs=2)
        assert cols.max() - cols.min() == pytest.approx(10, abs=2)
        assert (labels > 0).sum() == pytest.approx(22 * 10 + np.pi * 25, rel=0.05)

    def test_texture_turns_with_the_body(self) -> None:
        tile = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)

        def seen(angle: float) -> np.ndarray:
            pose = replace(round_pose(1, (32, 32), radius=12), angle=angle, offset=(500.5, 300.5))
            body = traced(pose, shape=(65, 65), margin=3)
            assert body is not None
            full = np.zeros((65, 65))
            full[body.patch.box] = np.where(body.patch.mask, body.texture(tile), 0)
            return full

        first, turned = seen(0.0), seen(np.pi / 2)
        assert np.corrcoef(np.rot90(turned).ravel(), first.ravel())[0, 1] > 0.9
        assert abs(np.corrcoef(turned.ravel(), first.ravel())[0, 1]) < 0.5


class TestDivisions:
    def test_mother_is_gone_and_daughters_are_where_she_was(self) -> None:
        divisions = 0
        for seed in range(12):
            clip = render_clip(seed, kind="nuclei", frames=24, size=(160, 160))
            for mother in set(clip.parents.values()):
                daughters = [d for d, m in clip.parents.items() if m == mother]
                assert len(daughters) <= 2
                shown = [{n: bool((f == n).any()) for n in (mother, *daughters)} for f in clip.labels]
                last = max(i for i, s in enumerate(shown) if s[mother])
                first = min(i for i, s in enumerate(shown) if any(s[d] for d in daughters))
                assert first > last, "a mother and her daughters are never seen together"
                was = clip.labels[last] == mother
                if first == last + 1 and not (was[[0, -1]].any() or was[:, [0, -1]].any()):
                    place = ndimage.binary_dilation(was, iterations=3 + int(0.25 * np.sqrt(was.sum())))
                    found = np.isin(clip.labels[first], daughters)
                    assert found[place].sum() > 0.6 * found.sum()
                    divisions += 1
        assert divisions >= 5

    def test_numbers_of_parents_are_numbers_of_the_clip(self) -> None:
        for seed in range(6):
            clip = render_clip(seed, kind="rods", frames=24, size=(128, 128))
            known = numbers_of(clip.labels)
            assert {*clip.parents, *clip.parents.values()} <= known
            assert all(daughter > mother for daughter, mother in clip.parents.items())

    def test_stacks_have_none(self) -> None:
        assert not any(
            render_clip(s, kind=k, frames=4, size=(64, 64)).parents for s in range(3) for k in STACK_KINDS
        )


class TestMotion:
    def test_moves_at_most_a_third_of_its_diameter(self) -> None:
        habits = Habits(30.0, 6, speed=60.0, inertia=0.5, spread=0.0, push=0.0)
        troupe = Troupe(np.random.default_rng(1), (200, 200), habits)
        for _ in range(30):
            before = {a.number: a.at.copy() for a in troupe.actors}
            troupe.step()
            steps = [np.hypot(*(a.at - before[a.number])) for a in troupe.actors]
            assert max(steps) <= 0.36 * 30
        assert max(steps) > 3

    def test_leaves_the_field_and_comes_back(self) -> None:
        habits = Habits(20.0, 12, speed=5.0, inertia=0.97, spread=0.0, push=0.0)
        canvas = Canvas((96, 96), np.random.default_rng(3), background=0.0)
        look = Look(tile=np.zeros((256, 256), dtype=np.float32))
        footage = filmed(canvas, habits, look, frames=120, contrast="fluorescence")
        returned = 0
        for number in numbers_of(footage.labels):
            seen = (footage.labels == number).any(axis=(1, 2))
            gaps = np.flatnonzero(~seen)
            returned += bool(len(gaps) and seen[: gaps[0]].any() and seen[gaps[0] :].any())
        assert returned >= 2, "absent in between, the same number before and after"

    def test_pushed_bodies_do_not_overlap(self) -> None:
        def covered(push: float) -> float:
            troupe = Troupe(np.random.default_rng(2), (150, 150), Habits(24.0, 25, push=push, speed=3.0))
            shares = []
            for _ in range(12):
                troupe.step()
                bodies = [traced(p, shape=(150, 150), margin=3) for p in troupe.poses()]
                counts = np.zeros((150, 150))
                for body in bodies:
                    if body is not None:
                        counts[body.patch.box] += body.patch.mask
                shares.append((counts > 1).sum() / (counts > 0).sum())
            return float(np.mean(shares))

        assert covered(0.8) < 0.1
        assert covered(0.0) > 2 * covered(0.8)

    def test_rods_grow_along_their_axis(self) -> None:
        habits = Habits(16.0, 3, aspect=2.0, growth=0.05, is_rod=True, spread=0.0)
        troupe = Troupe(np.random.default_rng(0), (128, 128), habits)
        first = {p.number: p for p in troupe.poses()}
        for _ in range(6):
            troupe.step()
        for pose in troupe.poses():
            assert pose.short == pytest.approx(first[pose.number].short, rel=1e-6)
            assert pose.long >= first[pose.number].long


class TestStacks:
    def test_round_bodies_grow_shrink_and_vanish(self) -> None:
        whole = 0
        for seed in range(4):
            clip = render_clip(seed, kind="blobs", frames=32, size=(128, 128))
            for number in numbers_of(clip.labels):
                area = (clip.labels == number).sum(axis=(1, 2))
                shown = np.flatnonzero(area)
                assert len(shown) == shown[-1] - shown[0] + 1 or len(shown) > 0
                if shown[0] > 0 and shown[-1] < 31 and len(shown) >= 5:
                    whole += 1
                    middle = area[shown[0] : shown[-1] + 1]
                    assert middle[[0, -1]].max() < 0.9 * middle.max()
        assert whole >= 8

    def test_light_of_a_body_reaches_the_planes_beside_it(self) -> None:
        beside = []
        for seed in range(10):
            clip = render_clip(seed, kind="blobs", frames=24, size=(128, 128))
            images = clip.images.astype(np.float64)
            for number in numbers_of(clip.labels):
                shown = np.flatnonzero((clip.labels == number).any(axis=(1, 2)))
                after = shown[-1] + 1
                if after < 24:
                    inside = clip.labels[shown[-1]] == number
                    around = ndimage.binary_dilation(inside, iterations=14)
                    around &= ~ndimage.binary_dilation(inside, iterations=8)
                    clear = clip.labels[after] == 0
                    if (inside & clear).sum() > 8 and (around & clear).sum() > 8:
                        noise = images[after][around & clear].std() + 1e-9
                        beside.append(
                            (images[after][inside & clear].mean() - images[after][around & clear].mean())
                            / noise
                        )
        assert np.median(beside) > 0.1


def test_all_kinds_and_bit_depths_occur() -> None:
    clips = list(islice(clip_stream(1, frames=1, size=(64, 64)), 80))
    assert {clip.kind for clip in clips} == set(CLIP_KINDS)
    assert {clip.images.dtype.name for clip in clips} == {"uint8", "uint16", "float32"}
    deep = [clip.images for clip in clips if clip.images.dtype == np.uint16]
    assert min(image.max() for image in deep) <= 4095, "12 bits in 16"


def test_stream_is_the_same_for_a_seed() -> None:
    first, second = (
        list(islice(clip_stream(4, frames=2, size=(64, 64), kinds=("rods", "tubes")), 4)) for _ in range(2)
    )
    for one, other in zip(first, second, strict=True):
        assert one.kind == other.kind
        np.testing.assert_array_equal(one.images, other.images)
    assert {clip.kind for clip in first} <= {"rods", "tubes"}
    assert any((first[0].labels != clip.labels).any() for clip in first[1:])


def test_export_can_be_read_back(tmp_path: Path) -> None:
    export_clips(tmp_path / "set", count=4, seed=2, frames=3, size=(64, 72), kinds=("rods", "blobs"))
    notes = json.loads((tmp_path / "set" / "clips.json").read_text())
    assert {note["kind"] for note in notes.values()} == {"rods", "blobs"}
    for number, (name, note) in enumerate(notes.items()):
        clip = render_clip(2 * 1_000_003 + number, kind=note["kind"], frames=3, size=(64, 72))
        images, labels = (
            tifffile.imread(tmp_path / "set" / part / f"{name}.tif") for part in ("images", "labels")
        )
        np.testing.assert_array_equal(images, clip.images)
        np.testing.assert_array_equal(labels, clip.labels)
        assert images.dtype == clip.images.dtype
        assert note["axis"] == clip.axis
        assert {int(d): m for d, m in note["parents"].items()} == clip.parents


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"seed": -1}, DataError),
        ({"seed": 0, "kind": "x-ray"}, DataError),
        ({"seed": 0, "frames": 0}, DataError),
        ({"seed": 0, "frames": 1001}, DataError),
        ({"seed": 0, "size": (32, 256)}, ImageError),
        ({"seed": 0, "size": (256, 4096)}, ImageError),
    ],
)
def test_says_what_it_cannot_render(wrong: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error, match=r"must be|take one of"):
        render_clip(**wrong)  # type: ignore[arg-type]  # wrong on purpose


def test_clip_checks_itself() -> None:
    images, labels = np.zeros((2, 4, 4), dtype=np.uint8), np.zeros((2, 4, 4), dtype=np.uint32)
    with pytest.raises(DataError, match=r"\(T, H, W\)"):
        Clip(images[0], labels[0], {}, "t", "nuclei")
    with pytest.raises(DataError, match="uint32"):
        Clip(images, labels.astype(np.uint8), {}, "t", "nuclei")
    with pytest.raises(DataError, match="axis"):
        Clip(images, labels, {}, "x", "nuclei")

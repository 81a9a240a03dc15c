"""Annotated images and scenes cut into crops that look as the model will see them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from napari_segany.core.intensity import Window, sample_window
from napari_segany.core.types import BoolMask, Labels
from napari_segany.predict.preprocess import to_rgb
from napari_segany.predict.zoom import zoom_of_side

from .dataset import FIRST_SEED, MIN_PIXELS, Annotated, Annotation, from_clip, from_scene
from .scenes import KINDS


@dataclass(frozen=True, slots=True)
class CropPlan:
    """How crops are cut: side in frame pixels, objects per crop, range of zoom around the inference scale.

    Of small objects, a share of `magnified` is seen at the scale of the window in which they are looked at again
    (`predict.zoom`).
    """

    side: int = 192
    objects: int = 4
    zoom: tuple[float, float] = (0.6, 2.2)
    frames: tuple[int, int] = (512, 1280)
    part_share: float = 0.35
    magnified: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """What is learnt from one crop.

    `pixels` (3, S, S) in 0..1; `masks` (K, S, S) bool; `dense` (2, S, S): foreground and borders; `is_primary` (K,):
    whether an object is what a person would name first, and no part of that.
    """

    pixels: Tensor
    masks: Tensor
    dense: Tensor
    is_primary: Tensor


def cut_crop(item: Annotated, plan: CropPlan, rng: np.random.Generator) -> Crop | None:
    """Cut one augmented crop around a random object, or None where the image has no object large enough."""
    primary = [o for o in item.objects if o.is_primary]
    others = [o for o in item.objects if not o.is_primary]
    pool = others if others and (not primary or rng.random() < plan.part_share) else primary
    if not pool:
        return None
    anchor = pool[rng.integers(len(pool))]
    scale = zoom_of(anchor, item.labels.shape, plan, rng)
    window = window_around(anchor, item.labels.shape, side=plan.side / scale, rng=rng)
    chosen = _objects_inside(item, window, anchor=anchor, plan=plan, scale=scale, rng=rng)
    labels = item.labels[window]
    pixels, masks, dense = to_frame(
        augment_intensity(pixels_in(item.image, window, rng), rng),
        np.stack([mask_in(o, window) for o in chosen]),
        np.stack([labels > 0, borders(labels)]),
        plan=plan,
        scale=scale,
        rng=rng,
    )
    return Crop(pixels, masks, dense, torch.tensor([o.is_primary for o in chosen]))


def zoom_of(anchor: Annotation, shape: tuple[int, ...], plan: CropPlan, rng: np.random.Generator) -> float:
    """Return frame pixels per image pixel: near that of inference, the anchor no dot, and the crop not lost in it."""
    extent = max(anchor.mask.shape)
    side = float(np.clip(max(shape[:2]), *plan.frames))  # as `predict` chooses it
    scale = side / max(shape[:2])
    closer = zoom_of_side(extent * scale, scale)
    if closer is not None and plan.magnified and rng.random() < plan.magnified:
        scale *= closer * float(np.exp(rng.uniform(-0.2, 0.2)))
    else:
        scale *= float(np.exp(rng.uniform(*np.log(plan.zoom))))
    return float(np.clip(scale, 12 / extent, max(1.6 * plan.side / extent, 0.25)))


def window_around(
    anchor: Annotation, shape: tuple[int, ...], *, side: float, rng: np.random.Generator
) -> tuple[slice, slice]:
    """Return a window of about `side` pixels that holds the anchor's centre and stays inside the image."""
    slices = []
    for box, length in zip(anchor.box, shape[:2], strict=True):
        extent = min(round(side), length)
        centre = (box.start + box.stop) / 2 + rng.uniform(-0.3, 0.3) * max(
            0.0, extent - (box.stop - box.start)
        )
        start = int(np.clip(round(centre - extent / 2), 0, length - extent))
        slices.append(slice(start, start + extent))
    return slices[0], slices[1]


def _objects_inside(
    item: Annotated,
    window: tuple[slice, slice],
    *,
    anchor: Annotation,
    plan: CropPlan,
    scale: float,
    rng: np.random.Generator,
) -> list[Annotation]:
    """Return the anchor and random others that are large enough inside the window."""
    least = max(MIN_PIXELS / 2, 30 / scale**2)
    candidates = [o for o in item.objects if o is not anchor and _overlap(o, window) >= 1]
    order = rng.permutation(len(candidates))
    chosen = [anchor]
    for index in order:
        if len(chosen) == plan.objects:
            break
        candidate = candidates[index]
        if not candidate.is_primary and rng.random() > plan.part_share:
            continue
        if mask_in(candidate, window).sum() >= max(least, 0.3 * candidate.mask.sum()):
            chosen.append(candidate)
    while len(chosen) < plan.objects:  # repeat: the same object with another prompt
        chosen.append(chosen[rng.integers(len(chosen))])
    return chosen


def _overlap(item: Annotation, window: tuple[slice, slice]) -> int:
    """Return the area that an object's box shares with a window."""
    sides = [
        max(0, min(b.stop, w.stop) - max(b.start, w.start)) for b, w in zip(item.box, window, strict=True)
    ]
    return sides[0] * sides[1]


def mask_in(item: Annotation, window: tuple[slice, slice]) -> BoolMask:
    """Return an object's mask in the pixels of a window."""
    out = np.zeros([w.stop - w.start for w in window], dtype=bool)
    inner, outer = [], []
    for box, w in zip(item.box, window, strict=True):
        start = max(box.start, w.start)
        stop = max(start, min(box.stop, w.stop))
        inner.append(slice(start - box.start, stop - box.start))
        outer.append(slice(start - w.start, stop - w.start))
    part = item.mask[tuple(inner)]
    if part.size:
        out[tuple(outer)] = part
    return out


def borders(labels: Labels) -> BoolMask:
    """Return pixels whose right or lower neighbour has another id."""
    edge = np.zeros(labels.shape, dtype=bool)
    edge[:-1] |= labels[:-1] != labels[1:]
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return edge


def pixels_in(
    image: NDArray[np.generic], window: tuple[slice, slice], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return the (3, h, w) window of an image in 0..1, through a jittered intensity window of the whole image."""
    base = sample_window(image)
    span = base.high - base.low
    jittered = Window(base.low - span * rng.uniform(-0.03, 0.1), base.high + span * rng.uniform(-0.25, 0.4))
    part: NDArray[np.float32] = to_rgb(image[window], jittered)[0].numpy()
    return part


def augment_intensity(pixels: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return (3, h, w) pixels after random gamma, colour, inversion, blur and noise, still in 0..1."""
    pixels = np.clip(pixels, 0, 1) ** np.float32(np.exp(rng.uniform(-0.5, 0.5)))
    if rng.random() < 0.3:
        gains = rng.uniform(0.7, 1.3, size=(3, 1, 1)).astype(np.float32)
        pixels = np.clip(pixels * gains, 0, 1)
    if rng.random() < 0.25:  # stains differ from lab to lab: each channel takes a little of the others
        mix = rng.dirichlet(np.full(3, 0.5), size=3) * rng.uniform(0.2, 0.6)
        mix += (1 - mix.sum(axis=1, keepdims=True)) * np.eye(3)
        pixels = np.einsum("ij,jhw->ihw", mix.astype(np.float32), pixels)
    if rng.random() < 0.12:
        pixels = 1 - pixels
    if rng.random() < 0.12:
        pixels = np.repeat(pixels.mean(axis=0, keepdims=True), 3, axis=0)
    if rng.random() < 0.15:
        pixels = ndimage.gaussian_filter(pixels, (0, *(rng.uniform(0.4, 1.2),) * 2))
    if rng.random() < 0.3:
        pixels = pixels + rng.normal(0, rng.uniform(0.01, 0.06), size=pixels.shape[1:]).astype(np.float32)
    return np.clip(pixels, 0, 1).astype(np.float32)


def to_frame(
    pixels: NDArray[np.float32],
    masks: BoolMask,
    dense: BoolMask,
    *,
    plan: CropPlan,
    scale: float,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Resize a window to frame pixels, pad it to the crop's side, flip and turn it; all three."""
    size = [min(plan.side, max(8, round(n * scale))) for n in pixels.shape[1:]]
    image = F.interpolate(torch.from_numpy(pixels)[None], size=size, mode="bilinear", antialias=True)[0]
    stacked = torch.from_numpy(np.concatenate([masks, dense])).float()[None]
    truth = F.interpolate(stacked, size=size, mode="bilinear", antialias=True)[0]
    pad = (0, plan.side - size[1], 0, plan.side - size[0])
    image, truth = F.pad(image, pad), F.pad(truth, pad)
    turns, flips = int(rng.integers(4)), bool(rng.integers(2))
    image, truth = (
        torch.rot90(x.flip(2) if flips else x, turns, (1, 2)).contiguous() for x in (image, truth)
    )
    return image, truth[: len(masks)] > 0.5, truth[len(masks) :]


class CropStream(torch.utils.data.IterableDataset[tuple[Tensor, ...]]):
    """An endless stream of crops: a share from annotated images, the rest from a pool of scenes renewed slowly.

    Where there are `clip_kinds`, of movies and stacks, `clip_share` of the scenes are single frames of these.
    """

    def __init__(
        self,
        images: list[Annotated],
        plan: CropPlan,
        *,
        seed: int,
        scene_share: float = 0.5,
        kinds: tuple[str, ...] = KINDS,
        clip_kinds: tuple[str, ...] = (),
        clip_share: float = 0.25,
        pool: int = 300,
    ) -> None:
        super().__init__()
        self.images = [item for item in images if item.objects]
        self.plan = plan
        self.seed = seed
        self.scene_share = scene_share if self.images else 1.0
        self.kinds = kinds
        self.clip_kinds = clip_kinds
        self.clip_share = clip_share if clip_kinds else 0.0
        self.pool = pool
        self._shares = np.ones(0)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield crops without end; each worker has its own random numbers."""
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng((self.seed, worker.id if worker else 0))
        scenes: list[Annotated] = []
        weights = _balance(self.images)
        while True:
            if rng.random() < self.scene_share:
                item = self._scene(scenes, rng)
            else:
                item = self.images[rng.choice(len(self.images), p=weights)]
            crop = self.cut(item, rng)
            if crop is not None:
                yield crop

    def cut(self, item: Annotated, rng: np.random.Generator) -> tuple[Tensor, ...] | None:
        """Return (pixels, masks, dense, is_primary) of one crop, or None where there is nothing to learn from it."""
        crop = cut_crop(item, self.plan, rng)
        if crop is None or not crop.masks.flatten(1).any(1).all():
            return None
        return crop.pixels, crop.masks, crop.dense, crop.is_primary

    def _scene(self, scenes: list[Annotated], rng: np.random.Generator) -> Annotated:
        """Return a scene of the pool; while it fills, and at every fourth call later, a new one."""
        if len(scenes) < self.pool or rng.random() < 0.25:
            seed = FIRST_SEED + int(rng.integers(1 << 40))
            size = int(rng.choice([192, 256, 320]))
            if self.clip_share and rng.random() < self.clip_share:
                new = from_clip(seed, size=(size, size), kind=str(rng.choice(self.clip_kinds)))
            else:
                new = from_scene(seed, size=(size, size), kind=str(rng.choice(self.kinds)))
            if len(scenes) < self.pool:
                scenes.append(new)
            else:
                scenes[int(rng.integers(len(scenes)))] = new
            self._shares = self.shares(scenes)
            return new
        return scenes[rng.choice(len(scenes), p=self._shares)]

    def shares(self, scenes: list[Annotated]) -> NDArray[np.float64]:
        """Return how often each scene of the pool is to be cut from, 1 in all."""
        return np.full(len(scenes), 1 / len(scenes))


def _balance(images: list[Annotated]) -> NDArray[np.float64]:
    """Return sampling weights: rare modalities count more, by the square root of how rare they are."""
    if not images:
        return np.zeros(0)
    counts: dict[str, int] = {}
    for item in images:
        counts[item.modality] = counts.get(item.modality, 0) + 1
    weights = np.array([counts[item.modality] ** -0.5 for item in images])
    return weights / weights.sum()

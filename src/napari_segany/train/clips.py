"""Short clips in windows, as a follower will see them: rendered movies and stacks, and still images set in motion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from napari_segany.core.intensity import sample_window
from napari_segany.core.types import Labels
from napari_segany.models.windows import LARGEST_SCALE, Places, corner_around, cut
from napari_segany.predict.preprocess import to_rgb

from .clip_plan import ClipPlan, WindowPlan
from .crops import augment_intensity
from .dataset import FIRST_SEED, Annotated
from .movies import CLIP_KINDS, render_clip

_LEAST_AREA = 20  # pixels of an object where it is prompted
_LONGER = 3  # times that a clip which is cut where objects vanish is rendered as long
_TRIED = 8  # starts of such a cut


@dataclass(frozen=True, slots=True, eq=False)
class Moving:
    """Frames in 0..1, (T, 3, H, W), and their labels (T, H, W)."""

    frames: Tensor
    labels: Labels


class ClipStream(torch.utils.data.IterableDataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """Endless windows: pixels (T, 3, S, S) in 0..1, masks (T, K, S, S) bool, corners (T, 2) and scale (1).

    Each `batch` windows in a row have one size. Rendered clips have seeds from `first_seed` to 2**30 beyond: those of
    training are never used for anything else.
    """

    def __init__(
        self,
        images: list[Annotated],
        plan: ClipPlan,
        *,
        seed: int,
        batch: int = 1,
        kinds: tuple[str, ...] = CLIP_KINDS,
        first_seed: int = FIRST_SEED,
    ) -> None:
        self.images, self.plan, self.seed, self.kinds = images, plan, seed, kinds
        self.batch, self.first_seed = batch, first_seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        info = torch.utils.data.get_worker_info()
        rng = np.random.default_rng((self.seed, info.id if info else 0))
        waiting: dict[WindowPlan, list[tuple[Tensor, Tensor, Tensor, Tensor]]] = {}
        while True:
            windows = self.plan.large if rng.random() < self.plan.large_share else self.plan.usual
            ready = waiting.setdefault(windows, [])
            for _ in range(self.batch):
                while len(ready) < 4 * self.plan.crops:
                    ready += self._crops(self._moving(windows.frames, rng), windows, rng)
                yield ready.pop(int(rng.integers(len(ready))))

    def _moving(self, frames: int, rng: np.random.Generator) -> Moving:
        """Return a clip: rendered, or a still image set in motion."""
        plan = self.plan
        if self.images and rng.random() < plan.still_share:
            return set_in_motion(self.images[int(rng.integers(len(self.images)))], frames, rng)
        kinds = self.kinds + tuple(kind for kind in plan.again if kind in self.kinds)
        kind = kinds[int(rng.integers(len(kinds)))]
        stride = plan.strides[int(rng.integers(len(plan.strides)))]
        is_ending = rng.random() < plan.ending_share
        clip = render_clip(
            self.first_seed + int(rng.integers(2**30)),
            kind=kind,
            frames=frames * stride * (_LONGER if is_ending else 1),
            size=plan.rendered,
        )
        section = (
            _ending(clip.labels, frames, stride=stride, rng=rng) if is_ending else slice(0, None, stride)
        )
        window = sample_window(clip.images)
        shown = torch.cat([to_rgb(frame, window) for frame in clip.images[section]])
        return Moving(shown, clip.labels[section])

    def _crops(
        self, clip: Moving, windows: WindowPlan, rng: np.random.Generator
    ) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Return some windows of a clip, each around an object of its first frame; vanishing ones come first."""
        if rng.random() < self.plan.reversed_share:
            clip = Moving(clip.frames.flip(0), clip.labels[::-1])
        ids, counts = np.unique(clip.labels[0], return_counts=True)
        ids = rng.permutation(ids[(ids > 0) & (counts >= _LEAST_AREA)])
        is_staying = np.array([(clip.labels == number).any((1, 2)).all() for number in ids], dtype=bool)
        chosen = ids[np.argsort(is_staying, kind="stable")][: self.plan.crops]
        crops = (self._crop(clip, windows, int(number), rng) for number in chosen)
        return [crop for crop in crops if crop is not None]

    def _crop(
        self, clip: Moving, windows: WindowPlan, number: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        """Return the windows that follow one object, with one of its neighbours."""
        side, frames = windows.side, windows.frames
        box = _box(clip.labels[0] == number)
        scale = float(np.exp(rng.uniform(*np.log(windows.sizes)))) / max(box[2] - box[0], box[3] - box[1], 1)
        size = clip.labels.shape[1:]
        scale = float(np.clip(scale, side / min(size), LARGEST_SCALE))
        centres = self._centres(clip, number, rng, width=side / scale)
        corners = np.stack([corner_around(centre, side / scale, size=size) for centre in centres])
        places = Places(torch.from_numpy(corners).float(), torch.full((frames,), scale))
        pixels = cut(clip.frames, places, side=side)
        labels = _cut_labels(clip.labels, places, side=side)
        inside, counts = np.unique(labels[0], return_counts=True)
        others = inside[(inside > 0) & (inside != number) & (counts >= 4 * _LEAST_AREA)]
        if not (labels[0] == number).any():
            return None
        numbers = [number, *rng.permutation(others)[: self.plan.objects - 1]]
        numbers += [number] * (self.plan.objects - len(numbers))
        masks = torch.from_numpy(np.stack([labels == n for n in numbers], axis=1))
        light = torch.from_numpy(augment_intensity(_tall(pixels), rng))  # one light for all frames
        lit = light.unflatten(1, (frames, -1)).transpose(0, 1).contiguous()
        return lit, masks, places.corner, places.scale[:1]

    def _centres(
        self, clip: Moving, number: int, rng: np.random.Generator, *, width: float
    ) -> NDArray[np.float64]:
        """Return the (T, 2) centres (x, y) of the windows: resting, or where the object was one frame before."""
        is_moving = rng.random() < self.plan.moving_share
        jitter = rng.uniform(-0.2, 0.2, 2) * width
        centres, here = [], None
        for t in range(len(clip.labels)):
            if here is None or is_moving:
                mask = clip.labels[max(t - 1, 0)] == number
                if mask.any():
                    box = _box(mask)
                    here = np.array([(box[1] + box[3]) / 2, (box[0] + box[2]) / 2]) + jitter
            assert here is not None
            centres.append(here)
        return np.array(centres)


def _ending(labels: Labels, frames: int, *, stride: int, rng: np.random.Generator) -> slice:
    """Return the frames, of some tried, in which most objects of the first one vanish, or of the last one appear."""
    long = (frames - 1) * stride + 1
    starts = rng.integers(0, len(labels) - long + 1, size=_TRIED)
    numbers = [set(np.unique(frame).tolist()) for frame in labels]
    changes = [len(numbers[start] ^ numbers[start + long - 1]) for start in starts]
    start = int(starts[int(np.argmax(changes))])
    return slice(start, start + long, stride)


def set_in_motion(item: Annotated, frames: int, rng: np.random.Generator) -> Moving:
    """Return a still image that drifts, turns, breathes, flickers and gets noisy, with its labels."""
    pixels = to_rgb(item.image, sample_window(item.image))
    labels = torch.from_numpy(item.labels.astype(np.float32))[None, None]
    height, width = item.labels.shape
    step, turn = rng.normal(0, 3.0, 2), rng.normal(0, 0.03)
    place, angle, zoom = np.zeros(2), 0.0, 1.0
    shown, marked = [], []
    for _ in range(frames):
        matrix = _affine(place, angle, zoom, size=(height, width))
        grid = F.affine_grid(matrix, [1, 3, height, width], align_corners=False)
        frame = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
        noise = torch.from_numpy(rng.normal(0, rng.uniform(0, 0.03), frame.shape[1:]).astype(np.float32))
        shown.append((frame * float(rng.uniform(0.9, 1.1)) + noise).clamp(0, 1))
        marked.append(F.grid_sample(labels, grid, mode="nearest", align_corners=False)[0, 0])
        step, turn = 0.8 * step + rng.normal(0, 2.0, 2), 0.8 * turn + rng.normal(0, 0.02)
        place, angle, zoom = place + step, angle + turn, zoom * float(np.exp(rng.normal(0, 0.015)))
    return Moving(torch.cat(shown), torch.stack(marked).numpy().astype(np.uint32))


def _affine(place: NDArray[np.float64], angle: float, zoom: float, *, size: tuple[int, int]) -> Tensor:
    """Return the (1, 2, 3) map of `affine_grid` that turns, zooms and shifts by pixels."""
    height, width = size
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    rows = [
        [cos, -sin * height / width, 2 * place[0] / width],
        [sin * width / height, cos, 2 * place[1] / height],
    ]
    return torch.tensor([rows], dtype=torch.float32)


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return (row0, col0, row1, col1) of a mask that is not empty."""
    rows, cols = ndimage.find_objects(mask.astype(np.uint8))[0]
    return rows.start, cols.start, rows.stop, cols.stop


def _cut_labels(labels: Labels, places: Places, *, side: int) -> Labels:
    """Return the (T, side, side) labels in windows, 0 outside of the image."""
    xy = np.floor(places.centres((side, side), stride=1.0).numpy()).astype(int).reshape(-1, side, side, 2)
    height, width = labels.shape[1:]
    inside = (xy >= 0).all(-1) & (xy[..., 0] < width) & (xy[..., 1] < height)
    x, y = xy[..., 0].clip(0, width - 1), xy[..., 1].clip(0, height - 1)
    cut_out = np.asarray(labels)[np.arange(len(labels))[:, None, None], y, x]
    return np.where(inside, cut_out, 0).astype(np.uint32)


def _tall(pixels: Tensor) -> NDArray[np.float32]:
    """Return (T, 3, S, S) frames below each other, (3, T * S, S), to be changed alike."""
    return pixels.permute(1, 0, 2, 3).flatten(1, 2).numpy()

"""What following costs beside time: memory over a long stack, and steps for a correction. See `video`."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import zarr
from encoder import own_peak_mib
from numpy.typing import NDArray

from napari_segany.core.frames import ImagePlanes, frame_stacks
from napari_segany.core.masks import mask_iou
from napari_segany.core.types import Points, Prompt
from napari_segany.predict.loading import load_model
from napari_segany.predict.video import VideoPredictor
from napari_segany.predict.video_state import FollowOptions, VideoState

SIDE = 512
LONG = 1000
SETTLED = 50
"""Frames after which the memory in use should not grow any more."""

SHORT = 64


def body_at(frame: int) -> tuple[float, float]:
    """Return where the middle of the body is: (row, col) on a slow ellipse."""
    angle = 2 * np.pi * frame / 200
    return 256 + 120 * float(np.sin(angle)), 256 + 140 * float(np.cos(angle))


def movie_frame(frame: int) -> NDArray[np.uint8]:
    """Return a (512, 512) frame of a bright body on a noisy ground."""
    rows, cols = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    row, col = body_at(frame)
    inside = ((rows - row) / 34) ** 2 + ((cols - col) / 26) ** 2 < 1
    ground = np.random.default_rng(frame).normal(60, 10, (SIDE, SIDE))
    return (ground + 90 * inside).clip(0, 255).astype(np.uint8)


def click_on(row: float, col: float) -> Prompt:
    """Return one positive click."""
    return Prompt(points=Points(np.array([[row, col]], dtype=np.float32), np.array([True])))


def written_movie(folder: Path, *, frames: int) -> Any:  # zarr is untyped
    """Write a movie into a zarr, a frame a chunk, and return it."""
    array = zarr.create_array(
        str(folder / "movie.zarr"), shape=(frames, SIDE, SIDE), chunks=(1, SIDE, SIDE), dtype="uint8"
    )
    for frame in range(frames):
        array[frame] = movie_frame(frame)
    return array


def memory_growth(follower: str, *, frames: int = LONG) -> dict[str, Any]:  # JSON
    """Follow a body through a long zarr, and return how much the peak memory grew after the first frames."""
    with TemporaryDirectory() as scratch:
        movie = written_movie(Path(scratch), frames=frames)
        predictor = _predictor(follower)
        state = predictor.open(next(frame_stacks(ImagePlanes(movie, "TYX"))))
        predictor.prompt(state, click_on(*body_at(0)), frame=0, object_id=1)
        peaks: dict[int, float] = {}
        found = 0
        for masks in predictor.propagate(state, range(frames)):
            row, col = body_at(masks.frame)
            found += bool(masks.masks[0, round(row), round(col)])
            peaks[masks.frame] = own_peak_mib()
    return {
        "model": predictor.card.name,
        "frames": frames,
        "frames_found": found,
        f"peak_mib_at_frame_{SETTLED}": round(peaks[SETTLED], 1),
        "peak_mib_at_the_end": round(peaks[frames - 1], 1),
        "growth_mib": round(peaks[frames - 1] - peaks[SETTLED], 1),
    }


def correction_cost(follower: str, *, frames: int = SHORT) -> dict[str, Any]:  # JSON
    """Follow a body, correct it in the middle, follow again; and do it all again with both prompts known.

    Steps are object-frames that are worked out without a prompt. The masks of both ways are compared.
    """
    movie = np.stack([movie_frame(frame) for frame in range(frames)])
    predictor = _predictor(follower)
    middle = frames // 2
    corrected = predictor.open(movie)
    masks = _followed(predictor, corrected, frames=[0])
    first = corrected.steps
    row, col = body_at(middle)
    predictor.prompt(corrected, click_on(row + 6, col + 4), frame=middle, object_id=1)
    masks |= _run(predictor, corrected)
    again = predictor.open(movie)
    anew = _followed(predictor, again, frames=[0, middle])
    ious = [mask_iou(masks[t], anew[t]) for t in range(frames)]
    return {
        "model": predictor.card.name,
        "frames": frames,
        "corrected_frame": middle,
        "steps_before": first,
        "steps_of_the_correction": corrected.steps - first,
        "steps_anew": again.steps,
        "times_fewer": round(again.steps / max(corrected.steps - first, 1), 2),
        "mean_iou": round(float(np.mean(ious)), 4),
        "least_iou": round(min(ious), 4),
    }


def _predictor(follower: str) -> VideoPredictor:
    """Return a predictor that seeks an object on every frame, however long it was absent."""
    return VideoPredictor(load_model(follower, device="cpu"), options=FollowOptions(patience=None))


def _followed(
    predictor: VideoPredictor, state: VideoState, *, frames: list[int]
) -> dict[int, NDArray[np.bool_]]:
    """Click on the body on some frames, and follow it through all."""
    for frame in frames:
        predictor.prompt(state, click_on(*body_at(frame)), frame=frame, object_id=1)
    return _run(predictor, state)


def _run(predictor: VideoPredictor, state: VideoState) -> dict[int, NDArray[np.bool_]]:
    """Follow in both directions; return the masks of the frames that came."""
    masks = {}
    for order in (range(state.n_frames), range(state.n_frames - 1, -1, -1)):
        masks |= {one.frame: one.masks[0] for one in predictor.propagate(state, order)}
    return masks

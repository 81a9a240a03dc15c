"""VideoPredictor: objects followed through a stack from prompts on any frame, in memory bounded by what is remembered.

Paper: Ravi et al. 2024, section 4. What is worked out anew, and when to stop:

- Each frame belongs to the prompted frame nearest to it, and is followed from there.
- A prompt on a frame that was answered before makes the frames nearer to it than to any other prompt stale; following
  stops as soon as `_AGREEING` frames in a row come out as they were, and the rest is settled.
- An object that was absent for `patience` frames in a row is not sought any further in that direction. Until then, what
  is gone from a movie is looked for as it was seen last, by followers that can.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from napari_segany.core.errors import ImageError, PromptError
from napari_segany.core.intensity import Window
from napari_segany.core.masks import mask_iou
from napari_segany.core.types import (
    BoolMask,
    FrameMasks,
    FrameSource,
    ModelCard,
    Prompt,
    VideoStateLike,
)
from napari_segany.models.close_memory import CloseMemoryConfig
from napari_segany.models.sam2 import Sam2

from .asks import ask_to_answer, ask_to_follow, memories_kept
from .followed import FARTHEST, Answer, Followed, Memory, PackedMask
from .follower import Drawn, Follower, Found, resolved, whole
from .frame_follower import FrameFollower
from .loading import Model
from .video_state import ArrayFrames, FollowOptions, VideoState, sampled_window
from .window_follower import WindowFollower

_AGREEING = 2  # frames in a row that come out as they were before
_SAME = 0.96  # IoU from which a frame came out as it was


class VideoPredictor:
    """Follows objects through stacks and movies with one loaded model.

    Parameters
    ----------
    model
        From `load_model`: a SAM 2, or a bundled model; others raise a CapabilityError.
    options
        How objects are followed.
    """

    def __init__(self, model: Model, *, options: FollowOptions | None = None) -> None:
        self.model = model
        self.options = options or FollowOptions()
        self._follower(Window(0.0, 1.0))  # refuses models that cannot

    @property
    def card(self) -> ModelCard:
        """Name and hash of the model that answers."""
        return self.model.card

    def open(
        self,
        frames: FrameSource,
        *,
        window: Window | None = None,
        memory: int | None = None,
        over_time: bool | None = None,
    ) -> VideoState:
        """Open a stack.

        Parameters
        ----------
        frames
            Anything with a length or a shape, and frames (H, W) or (H, W, C) of any real dtype, read lazily: NumPy,
            dask and zarr arrays, lists.
        window
            Raw values that become black and white on every frame; sampled from frames over the stack where None.
        memory
            As in `FollowOptions`, in place of it.
        over_time
            Whether frames are times, so that what is gone may come back. In a z-stack it has ended, and what lies
            behind it is another. None for what `frames.over_time` says, and no where there is none.

        Raises
        ------
        ImageError
            If there is no frame, or frames are no images.
        """
        if not hasattr(frames, "__len__"):
            frames = ArrayFrames(frames)
        if len(frames) == 0:
            raise ImageError("the stack has no frame")
        if window is None:
            window = getattr(frames, "window", None)
            window = window() if callable(window) else window or sampled_window(frames)
        options = self.options if memory is None else replace(self.options, memory=memory)
        shape = np.asarray(frames[0]).shape[:2]
        if len(shape) != 2 or 0 in shape:
            raise ImageError(f"a frame must be (H, W) or (H, W, C) with at least one pixel, got {shape}")
        if over_time is None:
            over_time = bool(getattr(frames, "over_time", False))
        return VideoState(frames, window, (shape[0], shape[1]), options, self._follower(window), over_time)

    @torch.inference_mode()
    def prompt(self, state: VideoStateLike, prompt: Prompt, *, frame: int, object_id: int) -> FrameMasks:
        """Say all that is known of an object on a frame; return its mask there.

        It takes the place of what was said before about the object there. If the frame was answered before and the
        prompt has neither box nor mask, it corrects that answer.

        Raises
        ------
        PromptError
            If the frame or the object's number do not exist, or the prompt does not fit.
        """
        own = _own(state)
        _check(own, frame=frame, object_id=object_id)
        one = own.objects.get(object_id, Followed())
        earlier = one.corrected.get(frame)
        if frame not in one.prompts and frame in one.answers:
            earlier = one.answers[frame].mask
        found = own.follower.prompt(
            own.look(frame), prompt, earlier=None if earlier is None else earlier.unpack(),
            reminded=partial(ask_to_answer, own, one, frame),
        )  # fmt: skip
        if frame in one.prompts:
            one.forget_answers_of(frame)
        elif earlier is not None:
            one.corrected[frame] = earlier
        own.objects[object_id] = one
        one.prompts[frame] = prompt
        masks = resolved([found.drawn], own.frame_shape)
        (memory,) = own.follower.remember([found], masks)
        _keep(one, frame, found.drawn.score, masks[0], memory=memory, origin=frame, is_told=False)
        return _masks(frame, [object_id], masks, [found.drawn])

    @torch.inference_mode()
    def propagate(self, state: VideoStateLike, frames: range) -> Iterator[FrameMasks]:
        """Follow all objects through a range of frames, in its direction.

        Yields the frames that had stale objects, and in them these objects alone. To stop, stop iterating.

        Raises
        ------
        PromptError
            If there is no prompt yet, or the range leaves the stack or leaves out frames.
        """
        own = _own(state)
        _check_range(own, frames)
        agreeing: dict[int, int] = {}
        for frame in frames:
            due = [n for n in own.object_ids if own.objects[n].is_due(frame, step=frames.step)]
            due = [n for n in due if not self._is_lost(own, n, frame, step=frames.step)]
            if not due:
                continue
            answer = self._frame(own, due, frame, step=frames.step, agreeing=agreeing)
            yield answer

    def forget(self, state: VideoStateLike, *, object_id: int, frame: int | None = None) -> None:
        """Take back the prompt of an object on a frame, or the object altogether.

        Raises
        ------
        PromptError
            If there is no such object or prompt.
        """
        own = _own(state)
        one = own.known(object_id)
        if frame is None:
            del own.objects[object_id]
            return
        if frame not in one.prompts:
            raise PromptError(
                f"object {object_id} has no prompt on frame {frame}; it has on {own.prompted(object_id)}"
            )
        del one.prompts[frame]
        one.forget_answers_of(frame)
        one.outdated.add(frame)
        one.memories.pop(frame, None)
        one.corrected.pop(frame, None)

    def recall(
        self, state: VideoStateLike, *, frame: int, object_id: int, mask: BoolMask, score: float
    ) -> None:
        """Take in a mask that was found before, as if it had just been.

        Its memory is made when a frame near it is followed.
        """
        own = _own(state)
        _check(own, frame=frame, object_id=object_id)
        if mask.shape != own.frame_shape:
            raise PromptError(f"the mask has shape {mask.shape}, frames have {own.frame_shape}")
        one = own.objects.setdefault(object_id, Followed())
        one.answers[frame] = Answer(PackedMask.of(mask), score, one.nearest(frame))
        one.outdated.discard(frame)
        one.memories.pop(frame, None)

    def _frame(
        self, state: VideoState, due: list[int], frame: int, *, step: int, agreeing: dict[int, int]
    ) -> FrameMasks:
        """Work out the objects that are due on a frame."""
        look = state.look(frame)
        found: dict[int, Found] = {}
        known = [n for n in due if _is_answered(state.objects[n], frame)]
        asked = [n for n in due if frame not in state.objects[n].prompts]
        asks = [ask_to_follow(state, state.objects[n], frame, step=step) for n in asked]
        found.update(zip(asked, state.follower.follow(look, asks) if asks else [], strict=True))
        state.steps += len(asked)
        for number in set(due) - set(asked) - set(known):
            one = state.objects[number]
            earlier = one.corrected.get(frame)
            found[number] = state.follower.prompt(
                look, one.prompts[frame], earlier=None if earlier is None else earlier.unpack(),
                reminded=partial(ask_to_answer, state, one, frame),
            )  # fmt: skip
        drawn = [found[n].drawn if n in found else _as_answered(state.objects[n], frame) for n in due]
        masks = resolved(drawn, state.frame_shape)
        new = [index for index, n in enumerate(due) if n in found]
        memories = state.follower.remember([found[due[i]] for i in new], masks[new]) if new else []
        remembered = {due[i]: memory for i, memory in zip(new, memories, strict=True)}
        for number, mask, one_drawn in zip(due, masks, drawn, strict=True):
            one = state.objects[number]
            origin = frame if frame in one.prompts else one.source(frame, step=step)
            was = one.answers.get(frame)
            _keep(one, frame, one_drawn.score, mask, memory=remembered.get(number), origin=origin)
            _settle_if_same(
                one, frame, was, mask, step=step, agreeing=agreeing, number=number, end=state.n_frames
            )
            far = FARTHEST if state.options.least_score is not None else 1
            spatial = far * memories_kept(state) + state.repeats
            one.trim(frame, spatial=spatial, pointers=state.follower.pointers, prompted=8)
        return _masks(frame, due, masks, drawn)

    def _is_lost(self, state: VideoState, number: int, frame: int, *, step: int) -> bool:
        """Return whether an object was absent for so long that it is not sought any more."""
        patience, one = state.options.patience, state.objects[number]
        if patience is None or frame in one.prompts:
            return False
        passed = [one.answers.get(frame - step * far) for far in range(1, patience + 1)]
        return all(answer is not None and answer.score < 0 for answer in passed)

    def _follower(self, window: Window) -> Follower:
        """Return what follows objects with this model."""
        network = self.model.network
        if isinstance(network, Sam2) and isinstance(network.config.memory, CloseMemoryConfig):
            return WindowFollower(self.model, window=window)
        return FrameFollower(self.model, window=window)


def _is_answered(one: Followed, frame: int) -> bool:
    """Return whether a prompted frame needs no new answer."""
    return frame in one.prompts and frame in one.answers and frame not in one.outdated


def _as_answered(one: Followed, frame: int) -> Drawn:
    """Return the answer that a prompted frame has already."""
    answer = one.answers[frame]
    return whole(answer.mask.unpack(), score=answer.score)


def _keep(
    one: Followed,
    frame: int,
    score: float,
    mask: BoolMask,
    *,
    memory: Memory | None,
    origin: int | None,
    is_told: bool = True,
) -> None:
    """Write down what was found; without a memory, the one that is there stays."""
    is_present = score >= 0 and bool(mask.any())
    kept = PackedMask.of(mask if is_present else np.zeros_like(mask))
    one.answers[frame] = Answer(kept, score if is_present else min(score, -1e-3), origin, is_told)
    one.outdated.discard(frame)
    if memory is not None:
        one.memories[frame] = memory


def _settle_if_same(
    one: Followed, frame: int, was: Answer | None, mask: BoolMask, *,
    step: int, agreeing: dict[int, int], number: int, end: int,
) -> None:  # fmt: skip
    """Count frames that came out as they were; after some in a row, settle what lies ahead up to the next prompt."""
    same = was is not None and frame not in one.prompts and was.origin != frame and _agree(was, mask)
    agreeing[number] = agreeing.get(number, 0) + 1 if same else 0
    if agreeing[number] < _AGREEING:
        return
    origin = one.answers[frame].origin
    ahead = frame + step
    while 0 <= ahead < end and ahead in one.answers and ahead not in one.prompts:
        if origin is not None and one.nearest(ahead) == origin:
            one.answers[ahead] = replace(one.answers[ahead], origin=origin)
            one.outdated.discard(ahead)
        ahead += step


def _agree(was: Answer, mask: BoolMask) -> bool:
    """Return whether a mask is as it was before."""
    before = was.mask.unpack()
    return (not before.any() and not mask.any()) or mask_iou(before, mask) >= _SAME


def _masks(frame: int, ids: list[int], masks: NDArray[np.bool_], drawn: list[Drawn]) -> FrameMasks:
    """Return what is told of a frame: absent objects have a negative score and an empty mask."""
    scores = np.array([one.score for one in drawn], dtype=np.float32)
    is_empty = ~masks.any(axis=(1, 2))
    scores[is_empty] = np.minimum(scores[is_empty], -1e-3)
    masks[scores < 0] = False
    return FrameMasks(frame, np.array(ids), masks, scores)


def _own(state: VideoStateLike) -> VideoState:
    """Return a state that `open` made; anything else is refused."""
    if not isinstance(state, VideoState):
        raise PromptError(f"the state must come from VideoPredictor.open, got {type(state).__name__}")
    return state


def _check(state: VideoState, *, frame: int, object_id: int) -> None:
    """Refuse frames outside of the stack, and numbers that are no labels."""
    if not 0 <= frame < state.n_frames:
        raise PromptError(f"frame {frame} is not in the stack; its frames are 0 to {state.n_frames - 1}")
    if not 1 <= object_id < 1 << 32:
        raise PromptError(f"object id {object_id} is not a label; use 1 to {(1 << 32) - 1}")


def _check_range(state: VideoState, frames: range) -> None:
    """Refuse ranges that leave the stack or leave out frames, and stacks without a prompt."""
    if not state.object_ids:
        raise PromptError("nothing to follow: prompt an object on some frame first")
    if frames.step not in (1, -1):
        raise PromptError(f"{frames} leaves out frames; objects are followed from each frame to the next")
    if len(frames) and not (min(frames) >= 0 and max(frames) < state.n_frames):
        raise PromptError(f"{frames} leaves the stack, whose frames are 0 to {state.n_frames - 1}")

"""What an object's next step is reminded of, worked out from its prompts and answers: memories, its last mask, where.

Paper: Ravi et al. 2024, section 4 ("Memory bank").
"""

from __future__ import annotations

from itertools import islice

import numpy as np

from napari_segany.core.types import Box

from .followed import Followed, Memory
from .follower import Ask
from .recall import RecallRules, recall
from .video_state import VideoState


def ask_to_follow(state: VideoState, one: Followed, frame: int, *, step: int) -> Ask:
    """Return what an object is reminded of when it is followed to a frame.

    Frames just passed on which it was not found are left out, while it may come back.
    """
    origin = one.source(frame, step=step)
    assert origin is not None
    missed = one.missed(frame, origin=origin, step=step, most=state.repeats)
    return _asked(state, one, frame, origin=origin, step=step, missed=missed)


def ask_to_answer(state: VideoState, one: Followed, frame: int) -> Ask | None:
    """Return what a prompt's answer is reminded of, as if its frame were followed to; None if nothing is known."""
    prompted = one.prompts.keys() - {frame}
    if not prompted:
        return None
    nearest = min(prompted, key=lambda p: (abs(p - frame), p))
    step = 1 if nearest < frame else -1
    return _asked(state, one, frame, origin=one.source(frame, step=step), step=step)


def memories_kept(state: VideoState) -> int:
    """Return how many passed frames are remembered."""
    return min(state.options.memory or state.follower.queue, state.follower.queue)


def _asked(
    state: VideoState, one: Followed, frame: int, *, origin: int | None, step: int, missed: int = 0
) -> Ask:
    """Return what a step is reminded of, `missed` frames just passed left out; memories let go of are made again.

    Without an origin, from which the frame is followed, there are memories of prompts alone.
    """
    queue = memories_kept(state)
    passed: set[int] = set()
    if origin is not None:
        most = max(queue, state.follower.pointers)
        passed = set(islice(one.chain(frame, origin=origin, step=step), most)) & one.answers.keys()
    recalled = recall(
        frame, sorted(one.prompts.keys() - {frame}), passed=passed, n_frames=state.n_frames,
        rules=RecallRules(queue + 1, state.follower.pointers + 1, prompted=state.options.prompted),
        is_reverse=step < 0,
    )  # fmt: skip
    kept = recalled.memories
    if origin is not None and (missed or state.options.least_score is not None):
        chosen = one.chosen(
            frame - missed * step, origin=origin, step=step, least=state.options.least_score, most=queue
        )
        kept = tuple((t, age) for t, age in kept if age == 0)
        kept += tuple((t, age) for age, t in reversed(list(enumerate(chosen, start=1))))
    memories = tuple((age, _memory(state, one, t)) for t, age in kept)
    pointers = tuple((far, one.memories.get(t) or _memory(state, one, t)) for t, far in recalled.pointers)
    if origin is None:
        return Ask(memories, pointers, np.zeros(state.frame_shape, dtype=bool), None)
    last = one.answers[frame - (missed + 1) * step].mask.unpack()
    extent = _extent(state, one, frame, origin=origin, step=step)
    return Ask(memories, pointers, last, extent, is_repeated=missed > 0)


def _memory(state: VideoState, one: Followed, frame: int) -> Memory:
    """Return the whole memory of a frame, made again from its mask where it was let go of."""
    memory = one.memories.get(frame)
    if memory is None or not memory.is_whole:
        answer = one.answers[frame]
        extent = None
        if frame not in one.prompts and answer.origin is not None:
            step = 1 if frame > answer.origin else -1
            extent = _extent(state, one, frame, origin=answer.origin, step=step)
        memory = state.follower.adopt(state.look(frame), answer.mask.unpack(), extent=extent)
        one.memories[frame] = memory
    return memory


def _extent(state: VideoState, one: Followed, frame: int, *, origin: int, step: int) -> Box | None:
    """Return where an object is looked for on a frame that is followed from `origin`."""
    if state.options.foresees:
        return one.expected(frame, origin=origin, step=step)
    return one.extent(frame - step, origin=origin, step=step)

"""Following objects through the stacks of a file: what `segany propagate` does, by the same session as in a window."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from napari_segany.core.errors import AxesError, SettingsError, StoreError
from napari_segany.core.frames import FrameStack, frame_stacks
from napari_segany.core.intensity import Window
from napari_segany.core.types import VideoPredictorLike
from napari_segany.io.frames import FilePlanes
from napari_segany.io.images import open_image
from napari_segany.io.label_store import LabelStore
from napari_segany.io.opened import OpenedImage
from napari_segany.io.stack_prompts import StackPrompt, load_stack_prompts

from .following import Followed, Interruption, follow


@dataclass(frozen=True, slots=True)
class StackTask:
    """What to follow, with what, and where the result goes.

    Attributes
    ----------
    frames
        Which frames are worked out, as from `parse_range`.
    frame
        Where prompts are that name no plane.
    memory
        Frames that are remembered; None for as many as the model was made for.
    is_resumed
        Go on with a store that is there already.
    """

    stack: Path
    prompts: Path
    out: Path
    axis: str | None = None
    model: str = "sam2-nano"
    memory: int | None = None
    frame: int | None = None
    frames: slice = field(default_factory=lambda: slice(None))
    direction: str = "both"
    fixed: Mapping[str, int] = field(default_factory=dict)
    channels: tuple[int, ...] = ()
    window: Window | None = None
    axes: str | None = None
    device: str = "auto"
    precision: str = "auto"
    engine: str = "torch"
    is_resumed: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.is_resumed and self.overwrite:
            raise SettingsError(
                "--resume keeps the labels that are there, --overwrite removes them; pass one"
            )
        if self.out.exists() and not self.is_resumed and not self.overwrite and _find(self.out) is not None:
            raise StoreError(
                f"{self.out} has labels already; --resume goes on with them, --overwrite replaces them"
            )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to tell: a line for each object, what went otherwise than asked, and whether it was stopped."""

    lines: tuple[str, ...]
    warnings: tuple[str, ...]
    is_stopped: bool


def run(task: StackTask) -> Outcome:
    """Check what can be checked, then load the model, follow the objects and write frame by frame.

    Raises
    ------
    SegAnyError
        If the stack, a prompt, the model or the place for the result cannot be used.
    """
    opened = open_image(task.stack, axes=task.axes)
    planes = FilePlanes(opened, channels=task.channels, window=task.window)
    stacks = _stacks(planes, task)
    prompts = load_stack_prompts(task.prompts, stacks, frame=task.frame)
    work = [(stack, said) for stack, said in zip(stacks, prompts, strict=True) if said]
    _check_readable(*work[0])
    predictor = _predictor(task)
    with _store(task, opened) as store, Interruption() as interruption:
        done = list(_follow_all(work, task, predictor=predictor, store=store, interruption=interruption))
    return _outcome(done, is_stopped=interruption.is_wanted, unasked=len(stacks) - len(work))


def _stacks(planes: FilePlanes, task: StackTask) -> list[FrameStack]:
    """Return the stacks to work on, all of more than one frame."""
    stacks = list(frame_stacks(planes, axis=task.axis, fixed=task.fixed))
    length = len(stacks[0])
    if length == 1:
        others = [f"{letter} ({side})" for letter, side in _sides(planes) if side > 1]
        raise AxesError(
            f"{planes.name} has one frame only along {stacks[0].along!r}; "
            + (f"other axes are {', '.join(others)}: choose with --axis" if others else "use segany segment")
        )
    if not range(length)[task.frames]:
        raise AxesError(
            f"--range starts at frame {task.frames.start}, but {planes.name} has {length}, from 0"
        )
    return stacks


def _sides(planes: FilePlanes) -> list[tuple[str, int]]:
    """Return the letter and the length of each leading axis."""
    return list(zip(planes.calibration.axes[:-2], planes.shape[:-2], strict=True))


def _check_readable(stack: FrameStack, said: Sequence[StackPrompt]) -> None:
    """Raise, before a model is loaded, if a prompted frame or those that the window comes from cannot be read."""
    stack[said[0].frame]
    stack.window()


def _predictor(task: StackTask) -> VideoPredictorLike:
    from napari_segany.predict.loading import load_model
    from napari_segany.predict.video import VideoPredictor
    from napari_segany.predict.video_state import FollowOptions

    model = load_model(task.model, device=task.device, precision=task.precision, engine=task.engine)
    return VideoPredictor(model, options=FollowOptions(memory=task.memory))


def _find(out: Path) -> LabelStore | None:
    """Return the labels that are at a path, to be read; None if there are none."""
    try:
        return LabelStore.open(out, read_only=True)
    except StoreError:
        return None


def _store(task: StackTask, opened: OpenedImage) -> LabelStore:
    """Return where labels go: a new store, or the one of an earlier run on the same stack."""
    source = {
        "path": str(task.stack.resolve()),
        "shape": list(opened.shape),
        "axes": opened.axes,
        "channels": list(task.channels),
    }
    earlier = _find(task.out) if task.is_resumed else None
    if earlier is None:
        return LabelStore.create(
            task.out,
            shape=opened.label_shape,
            calibration=opened.calibration,
            source=source,
            overwrite=task.overwrite,
        )
    known = earlier.provenance.get("source") or {}
    differing = [key for key in source if key != "path" and known.get(key) != source[key]]
    if differing:
        key = differing[0]
        raise StoreError(
            f"{task.out} has labels of {known.get('path', 'another image')} with {key} {known.get(key)}, "
            f"not {source[key]}; go on with the same stack, or choose another --out"
        )
    return LabelStore.open(task.out)


def _follow_all(
    work: Sequence[tuple[FrameStack, list[StackPrompt]]],
    task: StackTask,
    *,
    predictor: VideoPredictorLike,
    store: LabelStore,
    interruption: Interruption,
) -> Iterator[Followed]:
    """Yield what came of each stack, until one is interrupted."""
    for number, (stack, said) in enumerate(work, start=1):
        title = f"stack {number} of {len(work)}" if len(work) > 1 else "following"
        yield follow(
            stack,
            said,
            predictor=predictor,
            store=store,
            interruption=interruption,
            frames=range(len(stack))[task.frames],
            direction=task.direction,
            title=title,
        )
        if interruption.is_wanted:
            return


def _outcome(done: Sequence[Followed], *, is_stopped: bool, unasked: int) -> Outcome:
    """Return what to tell about all stacks."""
    lines, warnings = [], []
    for one in done:
        where = f"{one.where}: " if one.where else ""
        lines += [f"{where}object {found.object_id}: {found.text}" for found in one.objects]
        if not is_stopped:
            empty = [found.object_id for found in one.objects if found.n_frames == 0]
            warnings += [f"{where}object {i} was found on no frame" for i in empty]
    if unasked:
        lines.append(f"{unasked} stacks without prompts were left as they are")
    return Outcome(tuple(lines), tuple(warnings), is_stopped)

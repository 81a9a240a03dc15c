"""The prompts of a stack's object in work, as prompt layers know them: plane by plane."""

from __future__ import annotations

from collections.abc import Callable

from napari_segany.core.errors import PromptError
from napari_segany.core.types import BoolMask, Box, FloatArray, Points
from napari_segany.session.prompts import ObjectPrompts, PlaneIndex
from napari_segany.session.state import SessionState
from napari_segany.session.volume import VolumeSession


class FramePrompts:
    """The prompts of the object in work of a stack's session, by plane, as prompt layers know them.

    Parameters
    ----------
    session
        May be replaced by another one.
    refused
        Is told why something may not be said, for example on a locked frame.
    """

    def __init__(self, session: VolumeSession, *, refused: Callable[[str], None]) -> None:
        self.session, self._refused = session, refused

    def state(self) -> SessionState:
        """Return, among others, the prompts in work on all planes."""
        session, chosen = self.session, self.session.object_id
        prompts = session.state().prompts
        mine = {session.index(frame): one for (owner, frame), one in prompts.items() if owner == chosen}
        return SessionState(chosen, mine)

    def prompts(self, index: PlaneIndex) -> ObjectPrompts:
        """Return the prompts in work on one plane."""
        frame = self.session.frame_at(index)
        return ObjectPrompts() if frame is None else self.session.prompts(self.session.object_id, frame)

    def click(self, index: PlaneIndex, coord: tuple[float, float], *, positive: bool = True) -> None:
        """Add a click at (row, col)."""
        self._say(index, lambda frame: self.session.click(frame, coord, positive=positive))

    def set_points(self, index: PlaneIndex, points: Points, *, is_live: bool = False) -> None:
        """Replace all clicks of one plane."""
        self._say(index, lambda frame: self.session.set_points(frame, points, is_live=is_live))

    def set_box(self, index: PlaneIndex, box: Box | None, *, is_live: bool = False) -> None:
        """Replace the box of one plane."""
        self._say(index, lambda frame: self.session.set_box(frame, box, is_live=is_live))

    def set_mask(
        self,
        index: PlaneIndex,
        mask: BoolMask | None,
        *,
        outlines: tuple[FloatArray, ...] = (),
        is_live: bool = False,
    ) -> None:
        """Replace the drawn (H, W) mask of one plane."""
        self._say(index, lambda frame: self.session.set_mask(frame, mask, outlines=outlines, is_live=is_live))

    def _say(self, index: PlaneIndex, call: Callable[[int], None]) -> None:
        """Say something on a frame, or why it may not be said there."""
        frame = self.session.frame_at(index)
        if frame is None:
            self._refused("This plane is of another stack. Go back to the one in work, or start anew here.")
            return
        try:
            call(frame)
        except PromptError as error:
            self._refused(str(error))

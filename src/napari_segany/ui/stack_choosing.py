"""Which stack, along which axis, with which model: the upper half of the dock for stacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QCheckBox, QFormLayout

from napari_segany.models.registry import ModelSpec, list_models

from .choosing import ChoicePanel, combo_box
from .stack_start import FrameAxis, StackChoice, frame_axes, preferred_axis

if TYPE_CHECKING:
    from napari.components import ViewerModel

_DEFAULT_MODEL = "sam2-nano"
_FAMILIES = ("sam2",)  # of models with a memory


def following_models() -> list[ModelSpec]:
    """Return the models that can follow objects."""
    return [spec for spec in list_models() if spec.family in _FAMILIES]


def following_model(name: str) -> str:
    """Return a model of this name if it can follow objects, or is somebody's own file; else the bundled one."""
    other = {spec.name for spec in list_models()} - {spec.name for spec in following_models()}
    return _DEFAULT_MODEL if name in other else name


class StackChoicePanel(ChoicePanel):
    """Image, channel, frame axis, model and labels to choose."""

    def __init__(self, viewer: ViewerModel, *, model: str) -> None:
        self._axes: list[FrameAxis] = []
        super().__init__(viewer, model=following_model(model), specs=following_models())

    def choice(self) -> StackChoice | None:
        """Return what is chosen, None while there is no stack."""
        place = self.frames.currentIndex()
        if self.images.layer is None or not 0 <= place < len(self._axes):
            return None
        return StackChoice(
            self.images.layer,
            self.models.name,
            self.channel,
            self.labels.layer,
            axis=self._axes[place].place,
            over_time=self._axes[place].letter == "T",
            follows_slider=self.follows.isChecked(),
        )

    @property
    def axis(self) -> FrameAxis | None:
        """The chosen frame axis."""
        place = self.frames.currentIndex()
        return self._axes[place] if 0 <= place < len(self._axes) else None

    def hold(self, is_running: bool) -> None:
        """Keep what a running session cannot change from being changed."""
        super().hold(is_running)
        for box in (self.frames, self.follows):
            box.setEnabled(not is_running)

    def _fill(self, form: QFormLayout) -> None:
        self.frames = combo_box("What counts the frames that objects are followed through")
        self.follows = QCheckBox("")
        self.follows.setChecked(True)
        self.follows.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.frames.currentIndexChanged.connect(self._show_others)
        form.addRow("Image", self.images.box)
        form.addRow(self._channel_title, self.channels)
        form.addRow("Frames", self.frames)
        form.addRow("", self.follows)
        form.addRow("Model", self.models)
        form.addRow("Labels", self.labels.box)

    def _show_channels(self, _: int = 0) -> None:
        self._show_axes()
        super()._show_channels()

    def _show_axes(self) -> None:
        """Offer the axes of the chosen image, keeping the choice where they are the same."""
        layer = self.images.layer
        axes = [] if layer is None else frame_axes(layer)
        if axes == self._axes:
            return
        self._axes = axes
        self.frames.blockSignals(True)
        self.frames.clear()
        self.frames.addItems([axis.title for axis in axes])
        self.frames.setCurrentIndex(preferred_axis(axes) if axes else -1)
        self.frames.blockSignals(False)
        self._show_others()

    def _show_others(self, _: int = 0) -> None:
        """Offer to follow the slider of the axes that count no frames, where there are any."""
        chosen = self.axis
        others = [axis.name for axis in self._axes if axis is not chosen and axis.n_frames > 1]
        self.follows.setVisible(bool(others))
        names = " and ".join(others)
        self.follows.setText(f"{names}: wherever the slider is")
        self.follows.setToolTip(
            f"On: each position of {names} is a stack of its own, opened when you go there. Off: only the one "
            "in view at Start"
        )
        self.changed.emit()

"""What to segment, with which model, into which labels: the upper half of the annotation widget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal  # type: ignore[attr-defined]  # a name that qtpy makes
from qtpy.QtWidgets import QComboBox, QFormLayout, QLabel, QSizePolicy, QWidget

from napari_segany.models.registry import ModelSpec, list_models

from .fine_box import FineBox
from .grid import channel_count
from .model_box import ModelBox
from .start import Choice

if TYPE_CHECKING:
    from napari.components import ViewerModel

_NEW_LABELS = "New labels"


def combo_box(tip: str) -> QComboBox:
    """Return a combo box that gives way to a narrow dock instead of widening it."""
    box = QComboBox()
    box.setToolTip(tip)
    box.setMinimumContentsLength(12)
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return box


class LayerBox:
    """A combo box of the layers of one kind, by reference: they may be renamed, moved and removed.

    Parameters
    ----------
    kind
        Class name of the layers, such as "Image".
    first
        An entry for no layer.
    """

    def __init__(self, viewer: ViewerModel, kind: str, *, tip: str, first: str | None = None) -> None:
        self.box = combo_box(tip)
        self._layers: Sequence[Any] = viewer.layers
        self._kind, self._first = kind, first
        self._hidden: Callable[[Any], bool] = lambda _: False
        changes = [getattr(viewer.layers.events, name) for name in ("inserted", "removed", "moved")]
        for change in changes:
            change.connect(self.refill)
        self._leave: Callable[[], object] = lambda: [change.disconnect(self.refill) for change in changes]
        self.refill()

    def hide_where(self, hidden: Callable[[Any], bool]) -> None:
        """Leave some layers out."""
        self._hidden = hidden
        self.refill()

    @property
    def layer(self) -> Any:  # Any: napari is untyped
        """The chosen layer, None for none."""
        return self.box.currentData()

    @layer.setter
    def layer(self, layer: Any) -> None:
        self.box.setCurrentIndex(max(0, self._index(layer)))

    def refill(self, event: Any = None) -> None:
        """Show the layers that there are, keeping the choice."""
        chosen = self.layer
        layers = [layer for layer in reversed(self._layers) if self._fits(layer)]
        self.box.blockSignals(True)
        self.box.clear()
        if self._first is not None:
            self.box.addItem(self._first, None)
        for layer in layers:
            self.box.addItem(layer.name, layer)
            layer.events.name.connect(self._rename)
        self.box.blockSignals(False)
        self.box.setCurrentIndex(max(0, self._index(chosen)))
        self.box.currentIndexChanged.emit(self.box.currentIndex())

    def close(self) -> None:
        """Stop following the viewer."""
        self._leave()
        self._leave, self._layers = _nothing, ()
        self.box.clear()

    def _fits(self, layer: Any) -> bool:
        return type(layer).__name__ == self._kind and not self._hidden(layer)

    def _index(self, layer: Any) -> int:
        places = range(self.box.count())
        return next((i for i in places if self.box.itemData(i) is layer and layer is not None), -1)

    def _rename(self, event: Any) -> None:
        for i in range(self.box.count()):
            if self.box.itemData(i) is not None:
                self.box.setItemText(i, self.box.itemData(i).name)


class ChoicePanel(QWidget):
    """Image, channel, model and labels to choose; the model also while a session runs."""

    changed = Signal()

    def __init__(self, viewer: ViewerModel, *, model: str, specs: Sequence[ModelSpec] | None = None) -> None:
        super().__init__()
        self.images = LayerBox(viewer, "Image", tip="The image or stack to segment")
        self.labels = LayerBox(viewer, "Labels", tip="Where committed objects go", first=_NEW_LABELS)
        self.channels = combo_box("The channel that the model looks at")
        self.models = ModelBox(list_models() if specs is None else specs, chosen=model)
        self._channel_title = QLabel("Channel")
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        self._fill(form)
        self.images.box.currentIndexChanged.connect(self._show_channels)
        self._show_channels()

    def _fill(self, form: QFormLayout) -> None:
        """Put everything to choose into the form."""
        self.fine = FineBox()
        form.addRow("Image", self.images.box)
        form.addRow(self._channel_title, self.channels)
        form.addRow("Model", self.models)
        form.addRow("", self.fine)
        form.addRow("Labels", self.labels.box)

    def choice(self) -> Choice | None:
        """Return what is chosen, None while there is no image."""
        if self.images.layer is None:
            return None
        return Choice(self.images.layer, self.models.name, self.channel, self.labels.layer)

    @property
    def channel(self) -> int | None:
        """The chosen channel, None where the image has no channel axis."""
        return self.channels.currentIndex() if self.channels.count() else None

    def hold(self, is_running: bool) -> None:
        """Keep what a running session cannot change from being changed."""
        for box in (self.images.box, self.channels, self.labels.box):
            box.setEnabled(not is_running)

    def close_boxes(self) -> None:
        """Stop following the viewer."""
        self.images.close()
        self.labels.close()

    def _show_channels(self, _: int = 0) -> None:
        """Offer the channels of the chosen image, if it has any."""
        layer = self.images.layer
        count = None if layer is None else channel_count(layer)
        if self.channels.count() != (count or 0):
            self.channels.clear()
            self.channels.addItems([f"Channel {i}" for i in range(count or 0)])
        for widget in (self.channels, self._channel_title):
            widget.setVisible(count is not None)
        self.changed.emit()


def _nothing() -> None:
    """Do nothing."""

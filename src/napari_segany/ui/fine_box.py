"""The switch for fine boundaries, as far as the chosen model draws them."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QCheckBox

from napari_segany.models.registry import list_models

SIBLINGS = {"sam2-nano": "sam2-hq-nano"}
"""Models without fine boundaries, and the same model with them."""


class FineBox(QCheckBox):
    """A check box: off shows the masks of the model beneath. Its `clicked` tells of a person's choice."""

    def __init__(self) -> None:
        super().__init__("Fine boundaries")
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._names = [spec.name for spec in list_models() if spec.has_fine]

    def sibling_of(self, name: str) -> str | None:
        """Return the listed model that is this one with fine boundaries."""
        other = SIBLINGS.get(name)
        return other if other in self._names else None

    def follow(self, name: str, *, has_fine: bool, is_on: bool) -> None:
        """Show whether a model draws them, and whether they are wanted."""
        sibling = self.sibling_of(name)
        self.setEnabled(has_fine or sibling is not None)
        self.setChecked(has_fine and is_on)
        if has_fine:
            tip = f"{name} follows thin structures and ragged edges more closely"
            tip += ", with one mask for each click" if name.startswith("sam_hq") else ""
        elif sibling is not None:
            tip = f"Changes to {sibling}, the same model with fine boundaries"
        else:
            tip = f"{name} draws none. These models do: {', '.join(self._names)}"
        self.setToolTip(tip)

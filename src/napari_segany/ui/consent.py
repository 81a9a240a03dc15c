"""What restricts the use of a model, shown in the dock before its weights are downloaded for the first time."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtWidgets import QFrame, QHBoxLayout, QLabel, QVBoxLayout

from napari_segany.models.registry import ModelSpec

from .buttons import button
from .model_box import is_here

_COLOUR = "#d9a441"


class LicenceBar(QFrame):
    """A note with Continue and Cancel; asks once for each model, and only before a download."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("licence")
        self.setStyleSheet(f"#licence {{ border: 1px solid {_COLOUR}; border-radius: 3px; }}")
        self._agreed: set[str] = set()
        self._spec: ModelSpec | None = None
        self._then: tuple[Callable[[], None], Callable[[], None]] | None = None
        self.note = QLabel("")
        self.note.setWordWrap(True)
        self.agree = button("Continue", "Download the weights", clicked=self._on_agree)
        self.refuse = button("Cancel", "Stay with what there is", clicked=self.dismiss)
        buttons = QHBoxLayout()
        for one in (self.agree, self.refuse):
            buttons.addWidget(one)
        layout = QVBoxLayout(self)
        layout.addWidget(self.note)
        layout.addLayout(buttons)
        self.hide()

    def ask(self, spec: ModelSpec | None, *, agreed: Callable[[], None], refused: Callable[[], None]) -> None:
        """Call `agreed`, at once where nothing restricts use; a question that is still open is refused."""
        self.dismiss()
        if spec is None or not spec.licence_note or spec.name in self._agreed or is_here(spec):
            agreed()
            return
        self._spec, self._then = spec, (agreed, refused)
        self.note.setText(f"{spec.name} will be downloaded. {spec.licence_note}")
        self.show()

    @property
    def is_open(self) -> bool:
        """True while a question waits for its answer."""
        return self._then is not None

    def dismiss(self) -> None:
        """Take an open question for a no."""
        self._close(is_agreed=False)

    def _on_agree(self) -> None:
        if self._spec is not None:
            self._agreed.add(self._spec.name)
        self._close(is_agreed=True)

    def _close(self, *, is_agreed: bool) -> None:
        then, self._then, self._spec = self._then, None, None
        self.hide()
        if then is not None:
            then[0 if is_agreed else 1]()

"""Labels coloured by the class of their object, each class in a colour that is always the same."""

from __future__ import annotations

import colorsys
import hashlib
from typing import TYPE_CHECKING, Any

from napari_segany.session.objects import ObjectTable
from napari_segany.session.records import Colour

if TYPE_CHECKING:
    from napari.layers import Labels

_SALT = "2813"  # of thousands, the one with which thirty common names of microscopy look most different
_USUAL = "segany_usual_colours"  # in the metadata of a layer that is coloured by class: the colours it had
NO_CLASS: Colour = (0.63, 0.63, 0.63)
"""Of objects without a class, and of labels that nothing is known of."""


def colour_of_class(name: str) -> Colour:
    """Return the colour of a class: it depends on its name alone, in small letters; grey for no name."""
    if not name.strip():
        return NO_CLASS
    digest = hashlib.sha256((_SALT + name.strip().casefold()).encode()).digest()
    hue = int.from_bytes(digest[:4], "big") / 2**32
    saturation, value = 0.55 + 0.45 * digest[4] / 255, 0.65 + 0.35 * digest[5] / 255
    return colorsys.hsv_to_rgb(hue, saturation, value)


def legend(table: ObjectTable) -> str:
    """Return the classes of objects with their colours and how many there are, as rich text; "" for none."""
    counts: dict[str, int] = {}
    for row in table.rows.values():
        if row.name:
            counts[row.name] = counts.get(row.name, 0) + 1
    return " &nbsp; ".join(
        f"<span style='color:{_as_hex(colour_of_class(name))}'>■</span>&nbsp;{_escaped(name)}&nbsp;({count})"
        for name, count in sorted(counts.items())
    )


class ClassColours:
    """The colours of a Labels layer: by class while that is wanted, as they were before it otherwise."""

    def __init__(self, layer: Labels) -> None:
        self._layer = layer
        self._shown: dict[int | None, Any] | None = None  # Any: napari is untyped

    @property
    def is_on(self) -> bool:
        """Whether labels are coloured by class, also since an earlier session."""
        return _USUAL in self._layer.metadata

    def show(self, table: ObjectTable) -> None:
        """Colour every object by its class."""
        from napari.utils.colormaps import DirectLabelColormap

        colours: dict[int | None, Any] = {
            label: (*colour_of_class(row.name), 1.0) for label, row in table.rows.items() if row.name
        }
        if colours == self._shown and self.is_on:
            return
        self._layer.metadata.setdefault(_USUAL, self._layer.colormap)
        self._shown = colours
        every = {**colours, None: (*NO_CLASS, 1.0), 0: (0.0, 0.0, 0.0, 0.0)}
        self._layer.colormap = DirectLabelColormap(color_dict=every)

    def hide(self) -> None:
        """Give the layer its colours back."""
        if self.is_on:
            self._layer.colormap = self._layer.metadata.pop(_USUAL)
            self._shown = None


def _as_hex(colour: Colour) -> str:
    red, green, blue = (round(255 * part) for part in colour)
    return f"#{red:02x}{green:02x}{blue:02x}"


def _escaped(name: str) -> str:
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(" ", "&nbsp;")

"""The plugin's settings: napari's own page where it has one (0.9 and later), defaults elsewhere."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from napari_segany.models.download import weights_dir

_logger = logging.getLogger(__name__)
PLUGIN = "napari-segany"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a person chose in the preferences; the defaults are those of the manifest."""

    model: str = "sam2-nano"
    device: str = "auto"
    precision: str = "auto"
    fine: bool = True
    cache_mb: int = 512
    is_keeping_features: bool = True
    features_gb: int = 2
    label_folder: str = ""
    is_autosaving: bool = True
    classes: str = ""
    is_coloured_by_class: bool = False

    @property
    def folder(self) -> Path:
        """Where new labels are stored: the chosen folder, or one in the user's data directory."""
        if self.label_folder.strip():
            return Path(self.label_folder.strip()).expanduser()
        return data_folder() / "labels"


def data_folder() -> Path:
    """Return the plugin's folder in the user's data directory."""
    from qtpy.QtCore import QStandardPaths

    place = QStandardPaths.writableLocation(QStandardPaths.StandardLocation.GenericDataLocation)
    return Path(place) / PLUGIN


def features_folder() -> Path:
    """Return where features are kept on disk: beside the downloaded weights, so in $SEGANY_CACHE where that is set."""
    return weights_dir().parent / "features"


def remember_fine(is_on: bool) -> None:
    """Keep a person's wish for fine boundaries, where this napari keeps settings of plugins."""
    _remember("inference", "fine", is_on)


def remember_classes(line: str) -> None:
    """Keep the class names that a person gave, with commas between them."""
    _remember("inference", "classes", line)


def remember_class_colours(is_on: bool) -> None:
    """Keep a person's wish for colours by class."""
    _remember("labels", "colour_by_class", is_on)


def _remember(page: str, name: str, value: object) -> None:
    """Keep one setting, where this napari keeps settings of plugins."""
    try:
        from napari.settings import get_plugin_settings

        setattr(getattr(get_plugin_settings(PLUGIN), page), name, value)
    except (ImportError, KeyError, AttributeError):
        _logger.debug("this napari keeps no settings of plugins")


def read_settings() -> Settings:
    """Return the present settings; defaults where this napari keeps none for plugins."""
    try:
        from napari.settings import get_plugin_settings

        kept = get_plugin_settings(PLUGIN)
        return Settings(
            model=kept.inference.model,
            device=kept.inference.device,
            precision=kept.inference.precision,
            fine=kept.inference.fine,
            cache_mb=kept.inference.cache_mb,
            is_keeping_features=kept.inference.keep_features,
            features_gb=kept.inference.features_gb,
            label_folder=kept.labels.folder,
            is_autosaving=kept.labels.autosave,
            classes=kept.inference.classes,
            is_coloured_by_class=kept.labels.colour_by_class,
        )
    except (ImportError, KeyError, AttributeError):
        return Settings()

"""The plugin's settings: napari's own page where it has one (0.9 and later), defaults elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PLUGIN = "napari-segany"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a person chose in the preferences; the defaults are those of the manifest."""

    model: str = "sam2-nano"
    device: str = "auto"
    precision: str = "auto"
    cache_mb: int = 512
    label_folder: str = ""
    is_autosaving: bool = True

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


def read_settings() -> Settings:
    """Return the present settings; defaults where this napari keeps none for plugins."""
    try:
        from napari.settings import get_plugin_settings

        kept = get_plugin_settings(PLUGIN)
        return Settings(
            model=kept.inference.model,
            device=kept.inference.device,
            precision=kept.inference.precision,
            cache_mb=kept.inference.cache_mb,
            label_folder=kept.labels.folder,
            is_autosaving=kept.labels.autosave,
        )
    except (ImportError, KeyError, AttributeError):
        return Settings()

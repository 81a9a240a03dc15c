import subprocess
import sys
from pathlib import Path

import npe2
import pytest

import napari_segany
from napari_segany.ui.settings import Settings, read_settings

MANIFEST = Path(napari_segany.__file__).parent / "napari.yaml"


@pytest.fixture(scope="module")
def manifest() -> npe2.PluginManifest:
    manifest = npe2.PluginManifest.from_file(MANIFEST)
    manifest.validate_imports()
    return manifest


def test_the_manifest_is_valid(manifest: npe2.PluginManifest) -> None:
    command = [sys.executable, "-c", "import npe2.cli; npe2.cli.main()", "validate", str(MANIFEST)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert manifest.name == "napari-segany"


def test_every_contribution_names_a_command_that_is_there(manifest: npe2.PluginManifest) -> None:
    found = manifest.contributions
    known = {command.id for command in found.commands}
    used = [
        part.command
        for kind in (found.widgets, found.readers, found.writers, found.sample_data)
        for part in kind
    ]
    used += [item.command for items in found.menus.values() for item in items]
    assert set(used) == known
    assert {"napari/layers/segment", "napari/layers/annotate"} <= set(found.menus)


def test_the_copy_at_the_top_of_the_tree_is_the_same() -> None:
    top = MANIFEST.parents[2] / "napari.yaml"
    if not (MANIFEST.parents[2] / "pyproject.toml").exists():
        pytest.skip("the package is installed without its tree")
    assert top.read_text() == MANIFEST.read_text()


def test_settings_have_the_defaults_of_the_manifest(manifest: npe2.PluginManifest) -> None:
    pages = {key: page.properties for key, page in manifest.contributions.configurations.items()}
    default = {name: prop.default for page in pages.values() for name, prop in page.items()}
    own = Settings()
    assert default == {
        "model": own.model,
        "device": own.device,
        "precision": own.precision,
        "fine": own.fine,
        "classes": own.classes,
        "cache_mb": own.cache_mb,
        "keep_features": own.is_keeping_features,
        "features_gb": own.features_gb,
        "folder": own.label_folder,
        "autosave": own.is_autosaving,
        "colour_by_class": own.is_coloured_by_class,
    }


def test_settings_fall_back_where_napari_keeps_none(monkeypatch: pytest.MonkeyPatch) -> None:
    import napari.settings

    def missing(name: str) -> object:
        raise KeyError(name)

    monkeypatch.setattr(napari.settings, "get_plugin_settings", missing)
    assert read_settings() == Settings()


def test_readers_and_samples_load_no_torch() -> None:
    code = "import sys, napari_segany.ui.hooks as h; h.sample_cell(); h.sample_nuclei(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"

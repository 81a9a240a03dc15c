"""Models by name, whatever their family: configuration, network and key map."""

from __future__ import annotations

from collections.abc import Callable

from .image_model import ImageModel, ImageModelConfig
from .registry import list_models
from .sam import SAM, Sam, SamConfig, released_key
from .sam2 import SAM2, Sam2, Sam2Config
from .semantic_sam import SEMANTIC, SemanticConfig, SemanticSam
from .semantic_sam import released_key as semantic_key

CONFIGS: dict[str, ImageModelConfig] = {
    **SAM,
    **SAM2,
    **SEMANTIC,
    **{spec.name: SAM[f"sam_{spec.trunk}"] for spec in list_models("microsam_vit_[blh]_*")},
    **{spec.name: SAM["mobile_sam"] for spec in list_models("microsam_vit_t_*")},
}
"""The configuration behind every name; micro-sam's models are SAM's with other weights."""


def build_model(config: str | ImageModelConfig) -> ImageModel:
    """Return a freshly initialised model, by name or by its configuration."""
    config = CONFIGS[config] if isinstance(config, str) else config
    if isinstance(config, SamConfig):
        return Sam(config)
    if isinstance(config, SemanticConfig):
        return SemanticSam(config)
    assert isinstance(config, Sam2Config)
    return Sam2(config)


def key_map_of(config: ImageModelConfig) -> Callable[[str], str | None]:
    """Return the map from the keys of a row's released file to ours."""
    return semantic_key if isinstance(config, SemanticConfig) else released_key

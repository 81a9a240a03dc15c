"""Puts a session together: image layer, model, labels, worker, layers."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from napari.utils.notifications import show_warning

from napari_segany.core.types import ImagePredictorLike
from napari_segany.io.features import FeatureStore
from napari_segany.session.image import ImageSession
from napari_segany.session.worker import LatestWorker

from .annotation import Annotation
from .class_box import parse_classes
from .grid import grid_of, source_of
from .layers import add_layers
from .loading import Loading
from .object_features import known_of
from .post import MainThread
from .settings import Settings, features_folder
from .target import LEVEL_KEY, target_of, try_new_target

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Choice:
    """What a person chose before Start.

    Attributes
    ----------
    image
        The layer to segment.
    model
        Name of a row of the registry, or a weights file.
    channel
        Of the image, where it has a channel axis.
    labels
        A layer to go on with; None for new labels.
    """

    image: Image
    model: str
    channel: int | None = None
    labels: Labels | None = None


def start(
    viewer: ViewerModel,
    choice: Choice,
    *,
    settings: Settings,
    post: MainThread,
    loading: Loading[ImagePredictorLike],
) -> tuple[Annotation, Exception | None]:
    """Start a session in a viewer.

    Returns
    -------
    The running annotation, and why its labels are only in memory although the settings ask for a store.
    """
    grid = grid_of(choice.image)
    source = source_of(choice.image, channel=choice.channel)
    problem: Exception | None = None
    if choice.labels is not None:
        target = target_of(choice.labels, grid=grid)
    else:
        target, problem = try_new_target(grid, image_name=choice.image.name, settings=settings)
    session = ImageSession(
        source,
        loading.of(choice.model, settings=settings),
        sink=target.sink,
        worker=LatestWorker(post=post.post, name=f"segany-{choice.image.name}"),
        cache_bytes=settings.cache_mb << 20,
        store=features_store(settings),
        versions=installed_versions(),
        fine=None if settings.fine else False,
        objects=known_of(choice.labels) if choice.labels is not None else None,
    )
    session.set_classes(parse_classes(settings.classes))
    if choice.labels is not None and LEVEL_KEY in choice.labels.metadata:
        session.choose_level(choice.labels.metadata[LEVEL_KEY])
    session.warned.connect(show_warning)
    layers = add_layers(viewer, grid=grid, target=target, name=choice.image.name, labels=choice.labels)
    layers.labels.selected_label = session.object_id
    running = Annotation(
        viewer, choice.image, session=session, layers=layers, grid=grid, target=target, later=post.post
    )
    running.colour_by_class(settings.is_coloured_by_class)
    return running, problem


def features_store(settings: Settings) -> FeatureStore | None:
    """Return where features outlive the session, None if they are not to."""
    if not settings.is_keeping_features:
        return None
    return FeatureStore(features_folder(), max_bytes=settings.features_gb * 10**9)


def installed_versions() -> dict[str, str]:
    """Return the versions that decide what a mask looks like."""
    found = {}
    for name in ("napari-segany", "torch", "numpy", "napari"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            _logger.debug("%s is not installed as a distribution", name)
    return found

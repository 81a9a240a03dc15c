"""Objects without prompts: features to distances of the image, whatever its size; only where a model has a decoder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import predictor_of
from torch import Tensor, nn

from napari_segany.core.errors import CapabilityError, OutOfMemoryError, PromptError, SegAnyError
from napari_segany.core.geometry import ResizeMap, fit_long_side
from napari_segany.core.types import ModelCard
from napari_segany.models.image_model import ImageFeatures
from napari_segany.models.promptable import Promptable
from napari_segany.models.sam import SamConfig
from napari_segany.models.tiny_vit import TinyVitConfig
from napari_segany.models.unetr import UnetrConfig, UnetrDecoder
from napari_segany.predict.automatic import AutomaticSegmenter, to_image
from napari_segany.predict.distances import DistanceSettings, labels_of_distances
from napari_segany.predict.image import ImagePredictor
from napari_segany.predict.loading import Model
from napari_segany.predict.precision import place

SIDE = 128
CARD = ModelCard("microsam_vit_b_lm", "1" * 64, finds_instances=True)


class _Passing(Promptable):
    """Hands on the frame's pixels as its embedding, so that what comes back can be compared with the image."""

    config = SamConfig("passing", TinyVitConfig(), image_size=SIDE, resizing="pad")

    def encode(self, pixels: Tensor) -> ImageFeatures:
        return ImageFeatures(pixels)

    def prepared(self, features: ImageFeatures) -> ImageFeatures:
        return features


class _Reading(UnetrDecoder):
    """Gives the first three channels of an embedding of the frame's size back as distances."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.out_conv = nn.Conv2d(1, 1, kernel_size=1)
        self.calls = 0

    def forward(self, embedding: Tensor) -> Tensor:
        self.calls += 1
        spread = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        return embedding[:, :3] * spread + mean  # what normalisation did is undone


def fake(card: ModelCard = CARD) -> Model:
    """Return a model whose distances of an image are the image's own channels."""
    return Model(card, _Passing(), place("cpu", "float32"), _Reading())


def smooth_picture(shape: tuple[int, int]) -> np.ndarray:
    """Return an (H, W, 3) float32 image, 0 to 1, linear across each axis, so that resizing hardly changes it."""
    rows, cols = (np.linspace(0, 1, side, dtype=np.float32) for side in shape)
    red, green = np.broadcast_to(rows[:, None], shape), np.broadcast_to(cols[None], shape)
    return np.stack((red, green, (red + green) / 2), axis=-1)


@pytest.mark.parametrize("shape", [(64, 128), (200, 120), (37, 111), (128, 128), (301, 300)])
def test_distances_lie_where_the_image_has_them(shape: tuple[int, int]) -> None:
    picture = smooth_picture(shape)
    distances = AutomaticSegmenter(fake()).distances(picture)
    assert distances.shape == (3, *shape)
    assert distances.dtype == np.float32
    margin = 1 + int(np.ceil(max(shape) / SIDE))  # at the borders both resizings repeat the outermost pixel
    inside = np.s_[margin:-margin, margin:-margin]
    spread = (np.percentile(picture, 99.9) - np.percentile(picture, 0.1)).item()
    for one, expected in zip(distances, np.moveaxis(picture, -1, 0), strict=True):
        slope, offset = np.polyfit(expected[inside].ravel(), one[inside].ravel(), 1)  # the intensity window
        assert slope == pytest.approx(1 / spread, rel=0.05)
        assert np.abs(one - (slope * expected + offset))[inside].max() < 0.01


def test_frames_are_cut_before_they_are_resized() -> None:
    resize = fit_long_side((30, 60), long_side=SIDE)
    maps = torch.full((1, 3, SIDE, SIDE), 9.0)  # beside the image
    maps[:, :, : resize.target[0], : resize.target[1]] = 0.25
    torch.testing.assert_close(to_image(maps, resize), torch.full((1, 3, 30, 60), 0.25))
    grid = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert torch.equal(to_image(grid, ResizeMap((2, 3), (2, 3))), grid[:, :, :2, :3])


def test_labels_are_those_of_the_distances_and_settings() -> None:
    picture = np.random.default_rng(2).random((60, 90, 3)).astype(np.float32)
    loose, preset = DistanceSettings(centre=0.7, boundary=0.7, smoothing=0.3), AutomaticSegmenter(fake())
    segmenter = AutomaticSegmenter(fake(), settings=loose)
    labels = segmenter.labels(picture)
    assert labels.dtype == np.uint32
    assert labels.shape == (60, 90)
    assert labels.max() > 1
    np.testing.assert_array_equal(labels, labels_of_distances(segmenter.distances(picture), settings=loose))
    assert preset.settings.min_size == 100  # this model's own


def test_features_of_clicks_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, picture = fake(), smooth_picture((50, 70))
    features = ImagePredictor(model).embed(picture)
    expected = AutomaticSegmenter(model).labels(picture)
    monkeypatch.setattr(_Passing, "encode", None)
    segmenter = AutomaticSegmenter(model)
    np.testing.assert_array_equal(segmenter.labels_of(features), expected)
    assert segmenter.distances_of(features).shape == (3, 50, 70)


def test_features_of_another_model_are_refused() -> None:
    other = ImagePredictor(fake(ModelCard("microsam_vit_l_lm", "2" * 64))).embed(smooth_picture((20, 20)))
    with pytest.raises(PromptError, match="microsam_vit_l_lm"):
        AutomaticSegmenter(fake()).labels_of(other)
    with pytest.raises(PromptError, match="ndarray"):
        AutomaticSegmenter(fake()).labels_of(np.zeros((3, 3)))  # type: ignore[arg-type]  # the mistake


def test_a_model_without_a_decoder_says_which_have_one() -> None:
    with pytest.raises(CapabilityError, match="sam2-nano") as caught:
        AutomaticSegmenter(predictor_of("sam2-nano").model)
    assert isinstance(caught.value, SegAnyError)
    assert "microsam_vit_b_lm" in str(caught.value)
    assert "sam_vit_b," not in str(caught.value)


def test_no_memory_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(_Reading, "forward", fail)
    with pytest.raises(OutOfMemoryError, match=r"microsam_vit_b_lm.*\(40, 30\)"):
        AutomaticSegmenter(fake()).distances(smooth_picture((40, 30)))


def test_the_real_decoder_fits_the_embedding_of_a_padded_frame() -> None:
    class Small(_Passing):
        def encode(self, pixels: Tensor) -> ImageFeatures:
            return ImageFeatures(nn.functional.avg_pool2d(pixels, 16).repeat(1, 2, 1, 1))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = UnetrDecoder(UnetrConfig(6, (16, 8, 4, 2))).eval()
    segmenter = AutomaticSegmenter(replace(fake(), network=Small(), decoder=decoder))
    distances = segmenter.distances(smooth_picture((45, 99)))
    assert distances.shape == (3, 45, 99)
    assert ((distances > 0) & (distances < 1)).all()

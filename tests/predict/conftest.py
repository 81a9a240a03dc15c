"""Two small predictors for every test here."""

from __future__ import annotations

import pytest
from small_models import ROWS, predictor_of

from napari_segany.predict.image import ImagePredictor


@pytest.fixture(scope="session", params=ROWS.values(), ids=ROWS)
def predictor(request: pytest.FixtureRequest) -> ImagePredictor:
    """One that keeps the aspect of an image, and one that stretches it to a square."""
    return predictor_of(request.param)


@pytest.fixture(scope="session")
def nano() -> ImagePredictor:
    return predictor_of("sam2-nano")

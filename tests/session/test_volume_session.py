import numpy as np
import pytest
from video_fakes import FakeVideo, shifted

from napari_segany.core.masks import ArrayLabels
from napari_segany.core.types import Box
from napari_segany.session.source import ArraySource
from napari_segany.session.volume import VolumeSession
from napari_segany.session.volume_signals import Ending

SHAPE = (8, 20, 30)


def box_mask(box: Box, *, shift: int = 0) -> np.ndarray:
    mask = np.zeros(SHAPE[1:], dtype=bool)
    mask[int(box.row0) : int(box.row1), int(box.col0) : int(box.col1)] = True
    return shifted(mask, shift)


@pytest.fixture
def predictor() -> FakeVideo:
    return FakeVideo()


@pytest.fixture
def labels() -> ArrayLabels:
    return ArrayLabels(np.zeros(SHAPE, dtype=np.uint32))


@pytest.fixture
def source() -> ArraySource:
    return ArraySource(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))


@pytest.fixture
def session(source: ArraySource, predictor: FakeVideo, labels: ArrayLabels) -> VolumeSession:
    return VolumeSession(source, predictor, sink=labels)


ONE = Box(2, 3, 8, 9)


def test_prompt_preview_propagate_undo_redo(session: VolumeSession, labels: ArrayLabels) -> None:
    ends, painted = [], []
    session.run_ended.connect(ends.append)
    session.frame_painted.connect(lambda frame, ids: painted.append((frame, ids)))
    session.set_box(3, ONE)
    preview = session.preview(1, 3)
    assert preview is not None and np.array_equal(preview.mask, box_mask(ONE)) and not labels.array.any()
    assert session.propagate()
    for frame in range(8):
        assert np.array_equal(labels.array[frame] == 1, box_mask(ONE, shift=frame - 3))
    assert painted == [(f, (1,)) for f in (3, 4, 5, 6, 7, 2, 1, 0)]
    assert [end.ending for end in ends] == [Ending.FINISHED] and session.preview(1, 3) is None
    done = labels.array.copy()
    assert session.undo_title == "propagate" and session.undo()
    assert not labels.array.any() and session.preview(1, 3) is not None
    assert session.redo() and np.array_equal(labels.array, done)
    assert session.undo() and session.undo() and session.preview(1, 3) is None and session.object_ids == ()
    assert not session.undo()

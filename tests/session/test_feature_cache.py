"""Features in memory and in a store: what is embedded, what is found again, and when the disk is waited for."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from session_fakes import FakeFeatures, FakePredictor, Pump

from napari_segany.core.errors import ImageError
from napari_segany.core.identity import FeatureKey
from napari_segany.core.intensity import Window
from napari_segany.core.masks import ArrayLabels
from napari_segany.core.types import FeaturePacker, ModelCard, PackedFeatures
from napari_segany.io.features import FeatureStore
from napari_segany.session.answers import PlaneModel, Stage
from napari_segany.session.features import FeatureCache, FeatureStoreLike, StoredFeatures
from napari_segany.session.image import ImageSession
from napari_segany.session.prompts import PlaneIndex
from napari_segany.session.source import ArraySource
from napari_segany.session.worker import LatestWorker, Ticket

SHAPE = (4, 24, 32)
STACK = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


class PackingPredictor(FakePredictor):
    """Features that can be kept; `packed` and `unpacked` count, `trouble` is raised by `unpack`."""

    def __init__(
        self, name: str = "fake", *, trouble: Exception | None = None, number_format: str = "bfloat16"
    ) -> None:
        super().__init__()
        self.card = ModelCard(name, "0" * 64, number_format=number_format)
        self.trouble = trouble
        self.unpacked = 0

    def pack(self, features: FakeFeatures) -> PackedFeatures:
        ends = [features.window.low, features.window.high]
        return {"size": np.zeros(features.nbytes)}, {"shape": list(features.image_shape), "window": ends}

    def unpack(self, arrays: dict[str, np.ndarray], description: dict[str, object]) -> FakeFeatures:
        if self.trouble is not None:
            raise self.trouble
        self.unpacked += 1
        shape, (low, high) = description["shape"], description["window"]  # type: ignore[misc]
        return FakeFeatures(tuple(shape), Window(low, high), arrays["size"].size, self.card.name)  # type: ignore[arg-type]


class MemoryStore:
    """A store whose writes can be held up."""

    def __init__(self) -> None:
        self.kept: dict[FeatureKey, PackedFeatures] = {}
        self.may_write = threading.Event()
        self.may_write.set()

    def get(self, key: FeatureKey) -> PackedFeatures | None:
        return self.kept.get(key)

    def put(self, key: FeatureKey, packed: PackedFeatures) -> bool:
        assert self.may_write.wait(5)
        self.kept[key] = packed
        return True


def session_of(
    predictor: FakePredictor, store: FeatureStoreLike | None, *, stack: np.ndarray = STACK
) -> ImageSession:
    labels = ArrayLabels(np.zeros(stack.shape, dtype=np.uint32))
    return ImageSession(ArraySource(stack), predictor, sink=labels, store=store)


def model_of(predictor: FakePredictor, *, max_bytes: int = 1 << 29) -> PlaneModel:
    return PlaneModel(lambda: predictor, source=ArraySource(STACK), cache=FeatureCache(max_bytes=max_bytes))


def look(model: PlaneModel, index: PlaneIndex) -> list[Stage]:
    """Ask for features, and return what the model was busy with."""
    stages: list[Stage] = []
    ticket = Ticket(lambda call: call())
    model.features(index, ticket=ticket, report=lambda stage, _: stages.append(stage))
    return stages


def key_of(n: int) -> FeatureKey:
    return FeatureKey("image", (n,), (0, 1), "model", "weights")


def features_of(nbytes: int) -> FakeFeatures:
    return FakeFeatures((4, 4), Window(0, 1), nbytes)


class TestMemory:
    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 600)), min_size=1, max_size=20))
    def test_never_above_its_limit_but_for_the_newest(self, puts: list[tuple[int, int]]) -> None:
        cache = FeatureCache(max_bytes=1000)
        for n, size in puts:
            cache.put(key_of(n), features_of(2 * size))
            assert key_of(n) in cache
            assert cache.nbytes <= 1000 or len(cache) == 1

    def test_the_one_unused_for_longest_goes(self) -> None:
        cache = FeatureCache(max_bytes=300)
        for n in range(3):
            cache.put(key_of(n), features_of(100))
        assert cache.get(key_of(0)) is not None
        cache.put(key_of(3), features_of(100))
        assert [key_of(n) in cache for n in range(4)] == [True, False, True, True]
        cache.clear()
        assert len(cache) == 0 and cache.nbytes == 0 and cache.get(key_of(3)) is None

    def test_models_do_not_answer_for_each_other(self) -> None:
        cache, one = FeatureCache(), key_of(1)
        cache.put(one, features_of(1))
        others = (replace(one, model="b"), replace(one, weights="b"), replace(one, window=(0, 2)))
        assert not any(other in cache for other in (*others, replace(one, image="b")))


class TestSwitching:
    def test_back_and_forth_embeds_once_with_each(self) -> None:
        one, other = FakePredictor(), PackingPredictor("other")
        model = model_of(one)
        look(model, (1,))
        model.switch(lambda: other)
        assert model.predictor is one and model.is_switching  # until the other is loaded
        assert look(model, (1,)) == [Stage.LOADING, Stage.READING, Stage.EMBEDDING]
        assert model.predictor is other and not model.is_switching
        model.switch(lambda: one)
        assert look(model, (1,)) == [Stage.LOADING]
        assert model.has((1,)) and not model.has((2,))
        assert len(one.embedded) == len(other.embedded) == 1

    def test_both_share_the_limit(self) -> None:
        model = model_of(FakePredictor(), max_bytes=3000)
        for index in range(3):
            look(model, (index,))
        model.switch(lambda: PackingPredictor("other"))
        look(model, (0,))
        assert model.cache.nbytes == 3000

    def test_a_switch_while_the_old_model_loads_is_not_undone(self) -> None:
        old, new = FakePredictor(), PackingPredictor("new")

        def load_slowly() -> FakePredictor:
            model.switch(lambda: new)
            return old

        model = PlaneModel(load_slowly, source=ArraySource(STACK), cache=FeatureCache())
        look(model, (0,))
        assert model.predictor is new and len(new.embedded) == 1 and not old.embedded
        assert (model.loaded, model.switched) == (2, 1)

    def test_forgetting_reads_again(self) -> None:
        predictor = FakePredictor()
        model = model_of(predictor)
        look(model, (0,))
        model.forget()
        assert not model.has((0,)) and model.predictor is None
        look(model, (0,))
        assert len(predictor.embedded) == 2


class TestStore:
    def test_a_second_session_embeds_nothing(self, tmp_path: Path) -> None:
        first, second = PackingPredictor(), PackingPredictor()
        session = session_of(first, FeatureStore(tmp_path))
        for plane in range(SHAPE[0]):
            session.click((plane,), (10, 12))
        shown = [session.preview((plane,)) for plane in range(SHAPE[0])]
        session.close()
        assert len(first.embedded) == SHAPE[0] == len(FeatureStore(tmp_path))
        again = session_of(second, FeatureStore(tmp_path))
        again.prepare((0,))
        for plane, before in enumerate(shown):
            again.click((plane,), (10, 12))
            preview = again.preview((plane,))
            assert preview is not None and before is not None
            assert np.array_equal(preview.mask, before.mask) and preview.window == before.window
        assert second.embedded == [] and second.unpacked == SHAPE[0]
        again.close()

    @pytest.mark.parametrize("what", ["pixels", "model", "window", "number format"])
    def test_another_image_model_or_window_is_embedded(self, tmp_path: Path, what: str) -> None:
        session = session_of(PackingPredictor(), FeatureStore(tmp_path))
        session.click((1,), (10, 12))
        session.close()
        other = PackingPredictor(
            "other" if what == "model" else "fake",
            number_format="float32" if what == "number format" else "bfloat16",
        )
        stack = STACK.copy()
        if what == "pixels":
            stack[1, 3, 3] += 1e-3
        if what == "window":
            stack[0] += 50  # plane 1 is the same, but not what its values mean
        again = session_of(other, FeatureStore(tmp_path), stack=stack)
        again.click((1,), (10, 12))
        again.close()
        assert len(other.embedded) == 1 and other.unpacked == 0

    def test_the_model_before_a_switch_is_found_after_a_restart(self, tmp_path: Path) -> None:
        session = session_of(PackingPredictor("a"), FeatureStore(tmp_path))
        session.click((0,), (10, 12))
        session.close()
        for name in ("b", "a", "b"):
            predictor = PackingPredictor(name)
            session = session_of(predictor, FeatureStore(tmp_path))
            session.click((0,), (10, 12))
            session.close()
        assert predictor.embedded == [] and len(FeatureStore(tmp_path)) == 2

    def test_a_predictor_that_cannot_pack_works_without(self) -> None:
        store, predictor = MemoryStore(), FakePredictor()
        assert not isinstance(predictor, FeaturePacker) and isinstance(PackingPredictor(), FeaturePacker)
        session = session_of(predictor, store)
        session.click((0,), (10, 12))
        assert session.preview((0,)) is not None and store.kept == {}
        session.close()

    @pytest.mark.parametrize("trouble", [ImageError("of another model"), KeyError("embedding")])
    def test_what_does_not_fit_is_embedded_again(self, trouble: Exception) -> None:
        store = MemoryStore()
        session = session_of(PackingPredictor(), store)
        session.click((0,), (10, 12))
        session.close()
        predictor = PackingPredictor(trouble=trouble)
        again = session_of(predictor, store)
        again.click((0,), (10, 12))
        assert again.preview((0,)) is not None and len(predictor.embedded) == 1
        again.close()

    def test_a_broken_disk_costs_no_click(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / "file").write_text("")
        session = session_of(PackingPredictor(), FeatureStore(tmp_path / "file" / "features"))
        with caplog.at_level(logging.WARNING):
            for plane in range(3):
                session.click((plane,), (10, 12))
                assert session.preview((plane,)) is not None
            session.close()
        assert len(caplog.records) == 1

    def test_a_store_that_raises_costs_no_click(self, caplog: pytest.LogCaptureFixture) -> None:
        class Broken(MemoryStore):
            def get(self, key: FeatureKey) -> PackedFeatures | None:
                raise RuntimeError("get")

            def put(self, key: FeatureKey, packed: PackedFeatures) -> bool:
                raise RuntimeError("put")

        session = session_of(PackingPredictor(), Broken())
        session.click((0,), (10, 12))
        assert session.preview((0,)) is not None
        session.close()
        assert "cannot be used" in caplog.text and "could not be stored" in caplog.text


class TestWaiting:
    def test_no_answer_waits_for_the_disk(self) -> None:
        store, pump = MemoryStore(), Pump()
        store.may_write.clear()
        labels = ArrayLabels(np.zeros(SHAPE, dtype=np.uint32))
        worker = LatestWorker(post=pump.post)
        session = ImageSession(
            ArraySource(STACK), PackingPredictor(), sink=labels, worker=worker, store=store
        )
        for plane in range(3):
            session.click((plane,), (10, 12))
            pump.until(lambda plane=plane: session.preview((plane,)) is not None)  # type: ignore[misc]
        assert store.kept == {}
        store.may_write.set()
        assert session.close()
        assert sorted(key.plane for key in store.kept) == [(0,), (1,), (2,)]

    def test_a_slow_disk_does_not_pile_up_features(self) -> None:
        store, predictor = MemoryStore(), PackingPredictor()
        store.may_write.clear()
        stored = StoredFeatures(store)
        for n in range(50):
            stored.write(key_of(n), features_of(10), predictor=predictor)
        assert not stored.wait(timeout=0.01)
        store.may_write.set()
        assert stored.wait(timeout=5)
        assert 4 <= len(store.kept) <= 5
        stored.write(key_of(60), features_of(10), predictor=predictor)  # and goes on after
        assert stored.wait(timeout=5) and key_of(60) in store.kept

    def test_no_thread_is_left(self) -> None:
        stored = StoredFeatures(MemoryStore())
        stored.write(key_of(1), features_of(10), predictor=PackingPredictor())
        assert stored.wait(timeout=5)
        for thread in threading.enumerate():
            if thread.name == "segany-features":
                thread.join(5)
        assert "segany-features" not in {thread.name for thread in threading.enumerate()}

    def test_reading_from_the_store_is_not_called_embedding(self) -> None:
        store = MemoryStore()
        session = session_of(PackingPredictor(), store)
        session.click((0,), (10, 12))
        session.close()
        stages: list[Stage] = []
        again = session_of(PackingPredictor(), store)
        again.stage_changed.connect(stages.append)
        again.click((0,), (10, 12))
        assert Stage.EMBEDDING not in stages and Stage.READING in stages
        again.close()

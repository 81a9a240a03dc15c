"""What else can run an image encoder: it answers as PyTorch does, is kept, and fails with a word on what to do."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import seeded_network
from tests.contracts.small import small_row

from napari_segany.core.errors import DeviceError, ImageError, MissingExtraError, SettingsError
from napari_segany.core.types import ModelCard, Points, Prompt
from napari_segany.models.promptable import Promptable
from napari_segany.predict import engines
from napari_segany.predict.engines import CompiledEncoder, OpenVinoEncoder, check_engine, use_engine
from napari_segany.predict.image import ImagePredictor
from napari_segany.predict.loading import Model, _prepare, load_model
from napari_segany.predict.memory_limits import on_cpu
from napari_segany.predict.precision import Placement, place

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed"
)
FAMILIES = ("sam_hq_vit_b", "mobile_sam", "sam2.1_hiera_tiny", "sam2-nano")
CPU = Placement(torch.device("cpu"), torch.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGANY_CACHE", str(tmp_path))
    return tmp_path / "weights" / "openvino"


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the rows that were converted."""
    made: list[str] = []
    convert = engines._convert

    def counted(encoder: torch.nn.Module, *, config: engines.PromptableConfig) -> object:
        made.append(config.name)
        return convert(encoder, config=config)

    monkeypatch.setattr(engines, "_convert", counted)
    return made


def nano(engine: str, *, seed: int = 1, placement: Placement = CPU) -> ImagePredictor:
    """Return a predictor over a shrunken row that an engine runs."""
    network = seeded_network("sam2-nano", seed=seed)
    card = ModelCard("sam2-nano", f"{seed:064x}")
    use_engine(engine, network, card=card, placement=placement)
    return ImagePredictor(Model(card, _prepare(network, placement), placement))


def image(shape: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.random.default_rng(3).random(shape)


@torch.inference_mode()
def encoded(network: Promptable, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    features = network.encode(pixels)
    return features.embedding, *features.fine


class TestChoice:
    def test_an_unknown_engine_is_named(self) -> None:
        with pytest.raises(SettingsError, match=r"'onnx' is unknown.*torch, openvino, compile"):
            load_model("sam2-nano", device="cpu", engine="onnx")

    @pytest.mark.parametrize("device", ["cuda:0", "mps"])
    def test_openvino_is_for_the_cpu(self, device: str) -> None:
        with pytest.raises(DeviceError, match=rf"{device}.*device='cpu'"):
            check_engine("openvino", Placement(torch.device(device), torch.float16))

    def test_a_missing_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engines, "find_spec", lambda name: None)
        with pytest.raises(MissingExtraError, match=r"pip install napari-segany\[openvino\]"):
            load_model("sam2-nano", device="cpu", engine="openvino")

    @pytest.mark.parametrize("engine", ["torch", "compile"])
    def test_other_engines_need_no_extra(self, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engines, "find_spec", lambda name: None)
        check_engine(engine, CPU)

    def test_torch_is_the_encoder_itself(self) -> None:
        network = seeded_network("sam2-nano")
        before = network.image_encoder
        use_engine("torch", network, card=ModelCard("sam2-nano", "0"), placement=CPU)
        assert network.image_encoder is before


@needs_openvino
class TestOpenVino:
    @pytest.mark.parametrize("name", FAMILIES)
    def test_it_returns_what_pytorch_returns(self, name: str) -> None:
        small = small_row(name)
        network, config = small.model, small.config
        expected = encoded(network, small.pixels)  # two images: it takes one at a time
        kept = network.image_encoder
        try:
            use_engine("openvino", network, card=ModelCard(config.name, name), placement=CPU)
            assert isinstance(network.image_encoder, OpenVinoEncoder)
            found = encoded(network, small.pixels)
        finally:
            network.image_encoder = kept
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)

    def test_frames_of_any_size_take_one_conversion(self, conversions: list[str]) -> None:
        fast, plain = nano("openvino"), nano("torch")
        prompt = Prompt(points=Points([[10, 12]], [True]))
        for shape in ((48, 64), (64, 40), (33, 33)):
            ours, theirs = (one.embed(image(shape)) for one in (fast, plain))
            torch.testing.assert_close(ours.tensors.embedding, theirs.tensors.embedding, rtol=1e-3, atol=1e-4)
            masks = [one.predict(features, prompt).masks for one, features in ((fast, ours), (plain, theirs))]
            assert (masks[0] != masks[1]).mean() < 0.001
        assert conversions == ["sam2-nano"]

    def test_what_was_converted_is_kept(self, conversions: list[str], cache: Path) -> None:
        first = nano("openvino").embed(image())
        (folder,) = cache.iterdir()
        assert sorted(path.name for path in folder.iterdir()) == [
            "encoder.bin",
            "encoder.json",
            "encoder.xml",
        ]
        second = nano("openvino").embed(image())
        assert conversions == ["sam2-nano"]
        assert torch.equal(first.tensors.embedding, second.tensors.embedding)

    def test_other_weights_are_converted_for_themselves(self, conversions: list[str], cache: Path) -> None:
        nano("openvino", seed=1)
        other = nano("openvino", seed=2)
        assert len(conversions) == len(list(cache.iterdir())) == 2
        expected = nano("torch", seed=2).embed(image()).tensors.embedding
        torch.testing.assert_close(other.embed(image()).tensors.embedding, expected, rtol=1e-3, atol=1e-4)

    def test_another_version_converts_anew(
        self, conversions: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        nano("openvino")
        monkeypatch.setattr(engines, "__version__", "0.0.0+other")
        nano("openvino")
        assert len(conversions) == 2

    @pytest.mark.parametrize("damage", ["cut", "flipped", "no note", "no graph"])
    def test_what_is_damaged_is_made_again(
        self, damage: str, conversions: list[str], cache: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        expected = nano("openvino").embed(image()).tensors.embedding
        (folder,) = cache.iterdir()
        DAMAGES[damage](folder)
        with caplog.at_level(logging.WARNING):
            again = nano("openvino").embed(image()).tensors.embedding
        assert torch.equal(again, expected)
        assert len(conversions) == 2
        assert str(folder) in caplog.text
        assert "damaged" in caplog.text
        nano("openvino")  # and what was made is whole
        assert len(conversions) == 2

    def test_what_a_killed_process_left_is_in_nobodys_way(self, conversions: list[str], cache: Path) -> None:
        nano("openvino")
        (folder,) = cache.iterdir()
        folder.rename(folder.with_name(f"{folder.name}.part"))
        nano("openvino")
        assert list(cache.iterdir()) == [folder]
        assert len(conversions) == 2

    def test_it_works_where_nothing_can_be_kept(self, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
        cache.parent.mkdir(parents=True)
        cache.write_text("a file where the folder should be")
        with caplog.at_level(logging.WARNING):
            found = nano("openvino").embed(image()).tensors.embedding
        assert "cannot keep" in caplog.text
        expected = nano("torch").embed(image()).tensors.embedding
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)

    def test_the_encoder_comes_back_in_the_placements_format(self) -> None:
        predictor = nano("openvino", placement=place("cpu", "bfloat16"))
        pixels = torch.zeros(1, 3, 64, 64, dtype=torch.bfloat16)
        with torch.inference_mode():
            embedding, fine = predictor.model.network.image_encoder(pixels)
        assert {each.dtype for each in (embedding, *fine)} == {torch.bfloat16}
        expected = nano("torch").embed(image()).tensors.embedding
        error = (predictor.embed(image()).tensors.embedding - expected).norm() / expected.norm()
        assert 0 < error < 0.03

    def test_going_to_the_cpu_does_it_no_harm(self) -> None:
        predictor = nano("openvino")
        expected = predictor.embed(image()).tensors.embedding
        with pytest.warns(RuntimeWarning, match="ran out of memory"):
            predictor.model = on_cpu(predictor.model, what="a test")
        assert torch.equal(predictor.embed(image()).tensors.embedding, expected)

    def test_the_answer_outlives_the_next_image(self) -> None:
        predictor = nano("openvino")
        features = predictor.embed(image())
        before = features.tensors.embedding.clone()
        predictor.embed(1 - image())
        assert torch.equal(features.tensors.embedding, before)

    def test_a_loaded_model_says_which_engine_it_has(self) -> None:
        model = load_model("sam2-nano", device="cpu", precision="float32", engine="openvino")
        assert isinstance(model.network.image_encoder, OpenVinoEncoder)
        assert model.card.number_format == "float32, openvino"
        assert load_model("sam2-nano", device="cpu", precision="float32").card.number_format == "float32"
        side = model.config.image_size
        answer = ImagePredictor(model).embed(image((side, side)))
        assert answer.tensors.embedding.isfinite().all()


class TestCompile:
    def test_a_compiler_that_works_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        compiled: list[Callable[..., object]] = []

        def working(plain: Callable[..., object]) -> Callable[..., object]:
            compiled.append(plain)
            return plain

        monkeypatch.setattr(torch, "compile", working)
        predictor = nano("compile")
        assert isinstance(predictor.model.network.image_encoder, CompiledEncoder)
        expected = nano("torch").embed(image()).tensors.embedding
        for _ in range(2):
            assert torch.equal(predictor.embed(image()).tensors.embedding, expected)
        assert len(compiled) == 1

    @pytest.mark.parametrize("when", ["at once", "at the first image"])
    def test_a_compiler_that_fails_is_given_up(self, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[str] = []

        def broken(_: object) -> object:
            calls.append(when)
            raise RuntimeError("no C++ compiler was found\nand much more")

        monkeypatch.setattr(torch, "compile", broken if when == "at once" else lambda _: broken)
        predictor = nano("compile")
        expected = nano("torch").embed(image()).tensors.embedding
        with pytest.warns(RuntimeWarning, match=r"RuntimeError: no C\+\+ compiler was found\)"):
            assert torch.equal(predictor.embed(image()).tensors.embedding, expected)
        assert torch.equal(predictor.embed(image()).tensors.embedding, expected)
        assert len(calls) == 1

    def test_what_is_wrong_with_the_pixels_is_not_the_compilers_fault(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch, "compile", lambda plain: plain)
        encoder = CompiledEncoder(small_row("sam_vit_b").model.image_encoder)
        with pytest.raises(ImageError, match="33 x 64"):
            encoder(torch.zeros(1, 3, 33, 64))
        with torch.inference_mode():
            encoder(torch.zeros(1, 3, 64, 64))
        assert encoder._fast is not None


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(0, 0))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda folder: os.truncate(folder / "encoder.bin", 1000),
    "flipped": lambda folder: _flip(folder / "encoder.bin"),
    "no note": lambda folder: (folder / "encoder.json").unlink(),
    "no graph": lambda folder: (folder / "encoder.xml").unlink(),
}

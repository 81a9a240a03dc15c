"""Images to features, features and prompts to masks: the predictor that sessions, notebooks and jobs share.

Features are a value, not a state: several images can be open at once, and nothing can go stale. Coordinates come in as
(row, col) pixel centres and are mapped exactly; only here do they become the models' (x, y).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_segany.core.errors import PromptError
from napari_segany.core.geometry import ResizeMap, fit_long_side
from napari_segany.core.granularity import check_level, first_of, led_by
from napari_segany.core.intensity import Window, sample_window
from napari_segany.core.types import (
    AnyArray,
    FeaturesLike,
    MaskPrediction,
    ModelCard,
    PackedFeatures,
    Prompt,
)
from napari_segany.models.image_model import ImageFeatures
from napari_segany.models.mask_decoder import FineUse, MaskOutput
from napari_segany.models.semantic_sam import SemanticSam

from .answers import Look, prediction_of, prediction_of_looks, prediction_of_view
from .corrections import corrected
from .features import Features, pack, unpack
from .foresight import foresee, window_after
from .loading import Model
from .memory_limits import SMALLEST_BATCH, is_out_of_memory, on_cpu, refusal
from .parts import part_around
from .preprocess import FRAME_MULTIPLE, check_image, frame_pixels, kept_pixels, resize_of, to_rgb
from .prompts import Encoded, encode_prompt, in_view
from .words import words_of
from .zoom import (
    VIEW_SIDE,
    View,
    boxes_in_view,
    boxes_of_answer,
    choose_window,
    windows_of_small,
    without_islands,
)

_LARGEST_BATCH = 4  # prompts; larger ones leave the caches of a CPU, measured 1.1 to 1.3 times slower
_LARGEST_GPU_BATCH = 64
_MOST_VIEWS = 16
_ALL_PROMPTS = 1 << 30


class ImagePredictor:
    """Predicts masks on single images with one loaded model; safe to share between threads that take turns.

    Parameters
    ----------
    model
        Of `load_model`.
    classes
        Names to tell masks apart by, in models with words (`card.has_words`): theirs where None, no names where empty.
    reference
        Let prompts that are asked together see each other in Semantic-SAM, as its authors' code does; answers then
        depend on what else is asked. Of no effect in other families.

    Raises
    ------
    CapabilityError
        If names are given to a model without words.
    """

    def __init__(
        self, model: Model, *, classes: Sequence[str] | None = None, reference: bool = False
    ) -> None:
        self.model = model
        self._is_reference = reference and isinstance(model.network, SemanticSam)
        self.asked = None if classes is None else tuple(classes)
        self._words = words_of(model, classes)
        self._batch: int | None = None

    @property
    def card(self) -> ModelCard:
        """Name and hash of the model that answers."""
        return self.model.card

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names that masks are told apart by; none in models without words."""
        return () if self._words is None else self._words.classes

    def naming(self, classes: Sequence[str]) -> ImagePredictor:
        """Return a predictor with the same model that tells masks apart by other class names; see `Namer`."""
        return type(self)(self.model, classes=classes, reference=self._is_reference)

    @torch.inference_mode()
    def embed(self, image: NDArray[np.generic], *, window: Window | None = None) -> Features:
        """Return the features of one image.

        Parameters
        ----------
        image : (H, W) or (H, W, C)
            Any real dtype; one to four channels (a fourth, alpha, is ignored).
        window
            Raw values that become black and white; sampled from this image where None. Pass the stack's own window
            for every frame of a stack.

        Raises
        ------
        ImageError
            If shape or dtype do not fit.
        OutOfMemoryError
            If the encoder does not fit into memory, not even on the CPU.
        """
        image = check_image(image)
        window = window or sample_window(image)
        config = self.model.config
        resize, rgb = resize_of((image.shape[0], image.shape[1]), config), to_rgb(image, window)
        kept = kept_pixels(image, rgb) if config.is_local else None
        tensors = self._encode(rgb, resize)
        return Features(tensors, resize, window, self.card, stride=config.stride, rgb=kept)

    def _encode(self, rgb: Tensor, resize: ResizeMap) -> ImageFeatures:
        """Return the features of (1, 3, H, W) pixels in 0..1, in float32."""
        placement, config = self.model.placement, self.model.config
        pixels = frame_pixels(rgb, resize, config)
        try:
            pixels = pixels.to(placement.device, placement.encoder_dtype, memory_format=torch.channels_last)
            features = self.model.network.encode(pixels).to(placement.device, torch.float32)
            return self.model.network.prepared(features)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if placement.device.type == "cpu":
                raise refusal(self.card.name, f"an image of {resize.source}") from error
        self.model = on_cpu(self.model, what=f"an image of {resize.source}")
        return self._encode(rgb, resize)

    def pack(self, features: FeaturesLike) -> PackedFeatures:
        """Return features as named arrays, floats in half precision, and what else belongs to them, as JSON."""
        return pack(self.own(features))

    @torch.inference_mode()
    def unpack(self, arrays: dict[str, AnyArray], description: dict[str, object]) -> Features:
        """Return what `pack` took apart; an ImageError if it does not fit."""
        features = unpack(arrays, description, model=self.card, device=self.model.placement.device)
        return replace(features, tensors=self.model.network.prepared(features.tensors))

    def predict(
        self,
        features: FeaturesLike,
        prompt: Prompt,
        *,
        multimask: bool = True,
        fine: bool | None = None,
        level: int | None = None,
    ) -> MaskPrediction:
        """Return the masks of one prompt, best first.

        Parameters
        ----------
        features
            Of `embed`, by this model.
        prompt
            Points, box, mask, or several of them, on one object.
        multimask
            Three answers of different size, or the one the model deems most likely. Ask for one when correcting.
        fine
            Whether HQ models draw fine boundaries: None as they are made to, False as the model beneath them. HQ-SAM
            then gives the best of its three answers alone.
        level
            Step of the ladder, 1 (finest) to 6 (coarsest), whose mask comes first, or the nearest to it; None for the
            best by score.

        Raises
        ------
        PromptError
            If the prompt asks for text, lies outside of the image, or its logits belong to other features; or if fine
            boundaries are asked of a model without them.
        OutOfMemoryError
            If a single prompt does not fit into memory.
        """
        return self.predict_many(features, [prompt], multimask=multimask, fine=fine, level=level)[0]

    @torch.inference_mode()
    def predict_many(
        self,
        features: FeaturesLike,
        prompts: Sequence[Prompt],
        *,
        multimask: bool = True,
        fine: bool | None = None,
        level: int | None = None,
    ) -> list[MaskPrediction]:
        """Return the masks of many prompts on one image, in their order; equal to `predict` on each."""
        own, use, level = self.own(features), self._fine_use(fine), check_level(level)
        encoded = [encode_prompt(prompt, own) for prompt in prompts]
        if isinstance(self.model.network, SemanticSam):
            answers = self._answer(own.tensors, encoded, multimask=True, use="off")
            asked = zip(prompts, encoded, answers, strict=True)
            laddered = [led_by(self._laddered(own, *each), level) for each in asked]
            return laddered if multimask else [first_of(each) for each in laddered]
        predictions: dict[int, MaskPrediction] = {}
        windows: dict[int, tuple[slice, slice]] = {}
        for i, (prompt, item) in enumerate(zip(prompts, encoded, strict=True)):
            found = self._in_place(own, prompt, item, multimask=multimask, use=use)
            if isinstance(found, MaskPrediction):
                predictions[i] = found
            elif found is not None:
                windows[i] = found
        whole = [i for i in range(len(prompts)) if i not in predictions and i not in windows]
        answers = self._answer(own.tensors, [encoded[i] for i in whole], multimask=multimask, use=use)
        for i, seen in zip(whole, answers, strict=True):
            answer, kept = self._tidied(seen)
            window = None
            if own.rgb is not None:  # the masks themselves are drawn only where this is the last look
                window = choose_window(prompts[i], boxes_of_answer(answer, own.resize), own.resize)
            if window is None:
                predictions[i] = prediction_of(self._drawn(answer, kept), own, names=())
            else:
                windows[i] = window
        for i, window in windows.items():
            answer, view = self._closer(own, encoded[i], window, multimask=multimask, use=use)
            predictions[i] = prediction_of_view(self._finish(answer), own, view, names=())
        return [led_by(predictions[index], level) for index in range(len(prompts))]

    def _in_place(
        self, own: Features, prompt: Prompt, encoded: Encoded, *, multimask: bool, use: FineUse
    ) -> MaskPrediction | tuple[slice, slice] | None:
        """Return the answer from where the object is thought to lie.

        Or the window that shows it better than what was looked at; None where the whole frame has to be decoded.
        """
        foreseen = foresee(self.model.network, own, prompt, encoded)
        if foreseen is None:
            return None
        window = foreseen.window
        if window is not None:
            answer, view = self._closer(own, encoded, window, multimask=multimask, use=use)
            answer, kept = self._tidied(answer)
            if not foreseen.is_sure:  # what was found has the last word
                better = window_after(prompt, boxes_in_view(answer, view), window, own)
                if better != window:
                    return better
            return prediction_of_view(self._drawn(answer, kept), own, view, names=())
        part = part_around(foreseen.extent, own)
        if part is None:
            return None
        seen = [part.prompt(encoded)]
        answer, kept = self._tidied(
            self._answer(part.features(own.tensors), seen, multimask=multimask, use=use)[0]
        )
        if part.cuts(answer):
            return None
        window = choose_window(prompt, part.boxes(answer, own.image_shape), own.resize)
        return window or prediction_of(part.placed(self._drawn(answer, kept)), own, names=())

    def _laddered(
        self, own: Features, prompt: Prompt, encoded: Encoded, answer: MaskOutput
    ) -> MaskPrediction:
        """Return six masks, those of small things from magnified windows."""
        looks = [Look(self._finish(answer), self._names(answer))]
        windows = windows_of_small(prompt, answer, own.resize) if own.rgb is not None else []
        if not windows:
            return prediction_of(looks[0].output, own, names=looks[0].names)
        source = torch.zeros(answer.ious.shape[1], dtype=torch.long, device=answer.ious.device)
        for indices, window in windows:
            near, view = self._closer(own, encoded, window, multimask=True, use="off")
            source[indices] = len(looks)
            looks.append(Look(self._finish(near), self._names(near), view))
        return prediction_of_looks(looks, own, source=source)

    def _finish(self, output: MaskOutput) -> MaskOutput:
        """Return an answer as it is shown."""
        return self._drawn(*self._tidied(output))

    def _tidied(self, output: MaskOutput) -> tuple[MaskOutput, Tensor | None]:
        """Return a bundled model's answer without stray islands, and where none were."""
        is_local, logits = self.model.config.is_local, output.logits
        logits, kept = without_islands(logits) if is_local else (logits, None)
        return replace(output, logits=logits), kept

    def _drawn(self, output: MaskOutput, kept: Tensor | None) -> MaskOutput:
        """Return a tidied answer with fine boundaries, where those were left for last."""
        return self.model.network.finish(output, within=kept)

    def _fine_use(self, fine: bool | None) -> FineUse:
        """Return what becomes of the fine boundaries."""
        has_fine = self.model.config.has_fine
        if fine and not has_fine:
            raise PromptError(
                f"{self.card.name} draws no fine boundaries; load a model that does (`segany models` marks them)"
            )
        return "added" if has_fine and fine is not False else "off"

    def _answer(
        self, tensors: ImageFeatures, encoded: list[Encoded], *, multimask: bool, use: FineUse
    ) -> list[MaskOutput]:
        """Decode prompts on one set of features, those of a kind as one batch; one answer (1, M, …) each."""
        groups: dict[tuple[int, bool, bool], list[int]] = {}
        for index, item in enumerate(encoded):
            groups.setdefault(item.kind, []).append(index)
        answers: dict[int, MaskOutput] = {}
        for members in groups.values():
            done = 0
            self._batch = self._batch or self._most_prompts()
            while done < len(members):
                part = members[done : done + self._batch]
                batch = [encoded[i] for i in part]
                output = self._decode(tensors, batch, multimask=multimask, use=use)
                if output is not None:  # else there were too many at once: again, with fewer
                    answers.update((i, self._kept(output.row(k), encoded[i])) for k, i in enumerate(part))
                    done += len(part)
        return [answers[index] for index in range(len(encoded))]

    def _kept(self, answer: MaskOutput, prompt: Encoded) -> MaskOutput:
        """Return an answer that, in the bundled models, leaves alone what a correction does not ask to change."""
        config = self.model.config
        if not (config.is_local and prompt.has_answer) or isinstance(self.model.network, SemanticSam):
            return answer
        return corrected(answer, prompt, step=config.stride / 4)

    def _most_prompts(self) -> int:
        """Return how many prompts to decode at once."""
        if self._is_reference:
            return _ALL_PROMPTS
        is_cpu = self.model.placement.device.type == "cpu"
        if is_cpu and isinstance(self.model.network, SemanticSam):
            return 1  # its queries are so few that little is lost, and answers are the same to the last bit
        return _LARGEST_BATCH if self.model.placement.device.type == "cpu" else _LARGEST_GPU_BATCH

    def _decode(
        self, tensors: ImageFeatures, batch: list[Encoded], *, multimask: bool, use: FineUse
    ) -> MaskOutput | None:
        """Run the decoder on prompts of one kind; None where memory asks for a smaller batch, chosen by then."""
        device = self.model.placement.device
        xy, labels = (torch.stack([getattr(item, k) for item in batch]).to(device) for k in ("xy", "labels"))
        masks = None
        if batch[0].mask is not None:
            masks = torch.stack([cast(Tensor, item.mask) for item in batch]).to(device)
        try:
            network, features = self.model.network, tensors.to(device, torch.float32)
            if self._is_reference:
                assert isinstance(network, SemanticSam)
                output = network.decode(
                    features, xy, labels, masks=masks, multimask=multimask, reference=True
                )
            else:
                output = network.decode(features, xy, labels, masks=masks, multimask=multimask, fine=use)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) > SMALLEST_BATCH:
                self._batch = len(batch) // 2
                return None
            if device.type == "cpu":
                raise refusal(self.card.name, f"{len(batch)} prompts at once") from error
        else:
            return output
        self.model = on_cpu(self.model, what="a prompt")
        return None

    def _closer(
        self,
        features: Features,
        prompt: Encoded,
        window: tuple[slice, slice],
        *,
        multimask: bool,
        use: FineUse,
    ) -> tuple[MaskOutput, View]:
        """Return the answer to a prompt from a magnified window, and that window."""
        view = self._view(features, window)
        use = "outlines" if use == "added" else use  # what is small needs no extending
        seen = [in_view(prompt, features, view)]
        return self._answer(view.tensors, seen, multimask=multimask, use=use)[0], view

    def _names(self, answer: MaskOutput) -> tuple[str, ...]:
        """Return what the masks of one answer show; nothing where nothing is named."""
        network = self.model.network
        return self._words.names(network, answer) if self._words and isinstance(network, SemanticSam) else ()

    def _view(self, features: Features, window: tuple[slice, slice]) -> View:
        """Return the features of a window, embedded once."""
        rows, cols = window
        key = (rows.start, rows.stop, cols.start, cols.stop)
        view = features.views.pop(key, None)
        if view is None:
            assert features.rgb is not None
            rgb = features.rgb[:, :, rows, cols].float().expand(-1, 3, -1, -1)
            resize = fit_long_side((rgb.shape[2], rgb.shape[3]), long_side=VIEW_SIDE, multiple=FRAME_MULTIPLE)
            view = View(window, resize, self._encode(rgb, resize))
        features.views[key] = view
        while len(features.views) > _MOST_VIEWS:
            features.views.popitem(last=False)
        return view

    def own(self, features: FeaturesLike) -> Features:
        """Return features that this model made; anything else is refused."""
        if not isinstance(features, Features):
            raise PromptError(f"features must come from ImagePredictor.embed, got {type(features).__name__}")
        if features.model != self.card:
            raise PromptError(
                f"these features were made by {features.model.name}, not by {self.card.name}; embed the image again"
            )
        return features

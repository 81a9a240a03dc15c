"""Images to features, features and prompts to masks: the predictor that sessions, notebooks and jobs share.

Features are a value, not a state: several images can be open at once, and nothing can go stale. Coordinates come in as
(row, col) pixel centres and are mapped exactly; only here do they become the models' (x, y).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from napari_segany.core.errors import OutOfMemoryError, PromptError
from napari_segany.core.geometry import ResizeMap, fit_long_side, stretch
from napari_segany.core.intensity import Window, sample_window
from napari_segany.core.types import FeaturesLike, FloatArray, MaskPrediction, ModelCard, Prompt
from napari_segany.models.mask_decoder import MaskOutput, resize_logits
from napari_segany.models.prompt_encoder import BOX_END, BOX_START, NEGATIVE, POSITIVE
from napari_segany.models.sam2 import ImageFeatures

from .loading import Model
from .preprocess import check_image, to_frame, to_rgb
from .zoom import VIEW_SIDE, View, boxes_of_answer, boxes_of_logits, choose_window, drop_islands, resample

LEVELS_OF_THREE = (2, 4, 6)
LEVEL_OF_ONE = 4
DRAWN_LOGIT = 10.0
_FRAME_MULTIPLE = 32
_LARGEST_BATCH = 32
_MOST_VIEWS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What one image looks like to one model.

    `rgb` (1, 3 or 1, H, W), 0 to 1 in half precision, is there for models that look at small objects again; `views`
    are the windows looked at so far, the most recent last.
    """

    tensors: ImageFeatures
    resize: ResizeMap
    window: Window
    model: ModelCard
    rgb: Tensor | None = None
    views: OrderedDict[tuple[int, int, int, int], View] = field(default_factory=OrderedDict)

    @property
    def image_shape(self) -> tuple[int, int]:
        """(H, W) of the embedded image."""
        return self.resize.source

    @property
    def nbytes(self) -> int:
        """Memory that the features hold, in bytes."""
        kept = [self.tensors, *(view.tensors for view in self.views.values())]
        rgb = 0 if self.rgb is None else self.rgb.nbytes
        return rgb + sum(t.nbytes for part in kept for t in (part.embedding, *part.fine))

    @property
    def logits_shape(self) -> tuple[int, int]:
        """(h, w) of the mask logits that belong to these features."""
        height, width = self.tensors.embedding.shape[2:]
        return 4 * height, 4 * width


@dataclass(frozen=True, slots=True, eq=False)
class _Encoded:
    """One prompt as tensors: (N, 2) (x, y) in frame pixels, (N,) labels, (1, h, w) logits."""

    xy: Tensor
    labels: Tensor
    mask: Tensor | None


class ImagePredictor:
    """Predicts masks on single images with one loaded model; safe to share between threads that take turns."""

    def __init__(self, model: Model) -> None:
        self.model = model

    @property
    def card(self) -> ModelCard:
        """Name and hash of the model that answers."""
        return self.model.card

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
            If the encoder does not fit into memory.
        """
        image = check_image(image)
        window = window or sample_window(image)
        shape = (image.shape[0], image.shape[1])
        resize, rgb = self._resize(shape), to_rgb(image, window)
        kept = _half(image, rgb) if self.model.config.is_local else None
        return Features(self._encode(rgb, resize), resize, window, self.card, kept)

    def _encode(self, rgb: Tensor, resize: ResizeMap) -> ImageFeatures:
        """Return the features of (1, 3, H, W) pixels in 0..1, in float32."""
        placement = self.model.placement
        pixels = to_frame(rgb, resize)
        pixels = pixels.to(placement.device, placement.encoder_dtype, memory_format=torch.channels_last)
        try:
            tensors = self.model.network.encode(pixels)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"{self.card.name} needs more memory than {placement.device} has for an image of {resize.source}; "
                "use device='cpu' or a smaller model"
            ) from error
        return ImageFeatures(tensors.embedding.float(), (tensors.fine[0].float(), tensors.fine[1].float()))

    def predict(self, features: FeaturesLike, prompt: Prompt, *, multimask: bool = True) -> MaskPrediction:
        """Return the masks of one prompt, best first.

        Parameters
        ----------
        features
            Of `embed`, by this model.
        prompt
            Points, box, mask, or several of them, on one object.
        multimask
            Three answers of different size, or the one the model deems most likely. Ask for one when correcting.

        Raises
        ------
        PromptError
            If the prompt asks for text, lies outside of the image, or its logits belong to other features.
        """
        return self.predict_many(features, [prompt], multimask=multimask)[0]

    @torch.inference_mode()
    def predict_many(
        self, features: FeaturesLike, prompts: Sequence[Prompt], *, multimask: bool = True
    ) -> list[MaskPrediction]:
        """Return the masks of many prompts on one image, in their order; equal to `predict` on each."""
        own = self._own(features)
        encoded = self._encode_all(prompts, own)
        windows = [_window_of_earlier(prompt, own) for prompt in prompts]
        whole = [index for index, window in enumerate(windows) if window is None]
        answers = self._answer(own.tensors, [encoded[i] for i in whole], multimask=multimask)
        predictions = {
            i: _prediction(answer, own.image_shape) for i, answer in zip(whole, answers, strict=True)
        }
        if own.rgb is not None:
            for i, first in predictions.items():
                windows[i] = choose_window(prompts[i], boxes_of_answer(first), own.resize)
        for i, window in enumerate(windows):
            if window is not None:
                predictions[i] = self._closer(own, encoded[i], window, multimask=multimask)
        return [predictions[index] for index in range(len(prompts))]

    def _encode_all(self, prompts: Sequence[Prompt], features: Features) -> list[_Encoded]:
        """Return all prompts as tensors in frame pixels."""
        return [
            _Encoded(
                *self._encode_points(prompt, features),
                self._encode_mask(prompt, features) if prompt.mask is not None else None,
            )
            for prompt in prompts
        ]

    def _answer(
        self, tensors: ImageFeatures, encoded: list[_Encoded], *, multimask: bool
    ) -> list[MaskOutput]:
        """Decode prompts on one set of features, those of equal length as one batch; one answer (1, M, …) each."""
        groups: dict[tuple[int, bool], list[int]] = {}
        for index, item in enumerate(encoded):
            groups.setdefault((len(item.xy), item.mask is not None), []).append(index)
        answers: dict[int, MaskOutput] = {}
        for (_, has_mask), members in groups.items():
            for part in _parts(members, _LARGEST_BATCH):
                xy, labels = (torch.stack([getattr(encoded[i], k) for i in part]) for k in ("xy", "labels"))
                masks = torch.stack([cast(Tensor, encoded[i].mask) for i in part]) if has_mask else None
                output = self._decode(tensors, xy, labels, masks=masks, multimask=multimask)
                answers.update((i, output.row(k)) for k, i in enumerate(part))
        return [answers[index] for index in range(len(encoded))]

    def _closer(
        self, features: Features, prompt: _Encoded, window: tuple[slice, slice], *, multimask: bool
    ) -> MaskPrediction:
        """Return the answer to a prompt from a magnified window."""
        view = self._view(features, window)
        (answer,) = self._answer(view.tensors, [_in_view(prompt, features, view)], multimask=multimask)
        return _prediction_of_view(answer, features, view)

    def _view(self, features: Features, window: tuple[slice, slice]) -> View:
        """Return the features of a window, embedded once."""
        rows, cols = window
        key = (rows.start, rows.stop, cols.start, cols.stop)
        view = features.views.pop(key, None)
        if view is None:
            assert features.rgb is not None
            rgb = features.rgb[:, :, rows, cols].float().expand(-1, 3, -1, -1)
            resize = fit_long_side(
                (rgb.shape[2], rgb.shape[3]), long_side=VIEW_SIDE, multiple=_FRAME_MULTIPLE
            )
            view = View(window, resize, self._encode(rgb, resize))
        features.views[key] = view
        while len(features.views) > _MOST_VIEWS:
            features.views.popitem(last=False)
        return view

    def _decode(
        self, tensors: ImageFeatures, xy: Tensor, labels: Tensor, *, masks: Tensor | None, multimask: bool
    ) -> MaskOutput:
        """Run the decoder on prompts of equal length."""
        device = self.model.placement.device
        output = self.model.network.decode(
            tensors,
            xy.to(device),
            labels.to(device),
            masks=None if masks is None else masks.to(device),
            multimask=multimask,
        )
        return replace(output, logits=drop_islands(output.logits)) if self.model.config.is_local else output

    def _resize(self, shape: tuple[int, int]) -> ResizeMap:
        """Return how an image fills this model's frame."""
        config = self.model.config
        if config.resizing == "fit":
            side = min(max(*shape, config.image_size), config.largest_size)
            return fit_long_side(shape, long_side=side, multiple=_FRAME_MULTIPLE)
        return stretch(shape, side=config.image_size)

    def _own(self, features: FeaturesLike) -> Features:
        """Return features that this model made; anything else is refused."""
        if not isinstance(features, Features):
            raise PromptError(f"features must come from ImagePredictor.embed, got {type(features).__name__}")
        if features.model != self.card:
            raise PromptError(
                f"these features were made by {features.model.name}, not by {self.card.name}; embed the image again"
            )
        return features

    def _encode_points(self, prompt: Prompt, features: Features) -> tuple[Tensor, Tensor]:
        """Return a prompt's box corners and points as (N, 2) (x, y) in frame pixels, with (N,) labels."""
        if prompt.text is not None:
            raise PromptError(f"{self.card.name} reads no text; prompt with points, a box or a mask")
        coords: list[NDArray[np.float32]] = []
        labels: list[int] = []
        if prompt.box is not None:
            box = prompt.box
            corners = np.array([[box.row0, box.col0], [box.row1, box.col1]], dtype=np.float32) - 0.5
            coords.append(corners)  # a half-open end is the edge between two pixels
            labels += [BOX_START, BOX_END]
        if prompt.points is not None:
            coords.append(prompt.points.coords)
            labels += [POSITIVE if sign else NEGATIVE for sign in prompt.points.positive]
        where = np.concatenate(coords) if coords else np.zeros((0, 2), dtype=np.float32)
        _check_inside(where, features.image_shape)
        frame = features.resize.forward(where)[:, ::-1].copy()
        return torch.from_numpy(frame), torch.tensor(labels, dtype=torch.long)

    def _encode_mask(self, prompt: Prompt, features: Features) -> Tensor:
        """Return a prompt's mask as (1, h, w) logits."""
        mask = prompt.mask
        assert mask is not None
        if mask.dtype == np.bool_:
            if mask.shape != features.image_shape:
                raise PromptError(f"the mask prompt has shape {mask.shape}, the image {features.image_shape}")
            drawn = torch.from_numpy(mask.astype(np.float32))[None, None]
            area = F.interpolate(drawn, size=features.logits_shape, mode="bilinear", antialias=True)[0]
            return (2 * area - 1) * DRAWN_LOGIT
        if mask.shape != features.logits_shape:
            raise PromptError(
                f"logits of shape {mask.shape} do not belong to these features ({features.logits_shape}); "
                "pass MaskPrediction.logits of the same image, or a bool mask of the image's size"
            )
        return torch.from_numpy(mask)[None]


def _check_inside(coords: NDArray[np.float32], shape: tuple[int, int]) -> None:
    """Refuse points more than half a pixel outside of the image."""
    low, high = coords < -0.5 - 1e-3, coords > np.asarray(shape) - 0.5 + 1e-3
    outside = (low | high).any(axis=1)
    if outside.any():
        row, col = coords[outside][0]
        raise PromptError(
            f"({row:g}, {col:g}) lies outside of the image of {shape[0]} x {shape[1]} pixels (row, col)"
        )


def _parts(members: list[int], size: int) -> Iterable[list[int]]:
    """Cut a list into pieces of at most `size`."""
    return (members[i : i + size] for i in range(0, len(members), size))


def _window_of_earlier(prompt: Prompt, features: Features) -> tuple[slice, slice] | None:
    """Return the window to correct an earlier answer in, so that the whole frame need not be decoded for it."""
    if features.rgb is None or prompt.mask is None or prompt.mask.dtype == np.bool_:
        return None
    found = boxes_of_logits(cast(FloatArray, prompt.mask), features.resize)
    return choose_window(prompt, found, features.resize) if found else None


def _half(image: NDArray[np.generic], rgb: Tensor) -> Tensor:
    """Return the pixels to keep for a closer look: half precision, one channel where all are the same."""
    return rgb[:, : 1 if image.ndim == 2 else 3].half().clone()


def _in_view(prompt: _Encoded, features: Features, view: View) -> _Encoded:
    """Return a prompt of the whole frame in the coordinates of a view."""
    scale = torch.tensor(features.resize.scale[::-1], dtype=torch.float32)
    zoom = torch.tensor(view.resize.scale[::-1], dtype=torch.float32)
    start = torch.tensor([view.window[1].start, view.window[0].start], dtype=torch.float32)
    edges = (prompt.xy + 0.5) / scale - start  # image pixels from the window's edge
    mask = None
    if prompt.mask is not None:
        size = view.logits_shape
        mask = resample(
            prompt.mask[None],
            source=features.resize,
            origin=(view.window[0].start, view.window[1].start),
            size=size,
            step=(view.resize.source[0] / size[0], view.resize.source[1] / size[1]),
        )[0]
    return _Encoded(edges * zoom - 0.5, prompt.labels, mask)


def _prediction_of_view(output: MaskOutput, features: Features, view: View) -> MaskPrediction:
    """Return an answer of a view as one of the whole image."""
    inner = _prediction(output, view.resize.source)
    masks = np.zeros((len(inner), *features.image_shape), dtype=bool)
    masks[:, view.window[0], view.window[1]] = inner.masks
    size = features.logits_shape
    step = (features.image_shape[0] / size[0], features.image_shape[1] / size[1])
    logits = resample(
        torch.from_numpy(inner.logits)[:, None],
        source=view.resize,
        origin=(-view.window[0].start, -view.window[1].start),
        size=size,
        step=step,
    )[:, 0]
    return MaskPrediction(masks, inner.scores, logits.numpy(), inner.levels)


def _prediction(output: MaskOutput, shape: tuple[int, int]) -> MaskPrediction:
    """Return one prompt's (1, M, …) answer with masks at a size, best first."""
    masks = (resize_logits(output.logits, shape)[0] > 0).cpu().numpy()  # (M, H, W)
    scores, logits = output.ious[0].float().cpu().numpy(), output.logits[0].float().cpu().numpy()
    order = np.argsort(-scores, kind="stable")
    return MaskPrediction(masks[order], scores[order], logits[order], _levels(masks[order]))


def _levels(masks: NDArray[np.bool_]) -> NDArray[np.int_]:
    """Place masks on the six-level ladder by area: three at 2, 4 and 6, one in the middle."""
    if len(masks) == 1:
        return np.array([LEVEL_OF_ONE])
    levels = np.empty(len(masks), dtype=int)
    levels[np.argsort(masks.sum((1, 2)), kind="stable")] = LEVELS_OF_THREE
    return levels

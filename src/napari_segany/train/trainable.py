"""A model as training calls it: in parts, with weights cast once a step, and on a frozen base where there is one."""

from __future__ import annotations

import torch
from torch import nn
from torch.func import functional_call

from napari_segany.models.close_tracking import CloseTracking
from napari_segany.models.outline import OutlineHead
from napari_segany.models.registry import spec_of
from napari_segany.models.sam2 import Sam2
from napari_segany.models.second_opinion import SecondOpinion
from napari_segany.models.semantic_sam import SemanticSam
from napari_segany.models.weights import find_weights, read_weights

from .following import clip_loss


class Trainable(nn.Module):
    """A model and its training-only head, callable in parts so that one set of cast weights serves a whole graph."""

    def __init__(self, model: Sam2) -> None:
        super().__init__()
        self.model = model
        self.dense_head = nn.Conv2d(model.config.width // 8, 2, kernel_size=1)

    def forward(self, task: str, *inputs: object) -> object:
        """Run one task.

        "encode" pixels, "decode" prompts, "extend" or "outline" their masks, make "dense" maps, or "follow" objects
        through clips.
        """
        if task == "encode":
            return self.model.encode(*inputs)  # type: ignore[arg-type]  # the tasks differ in their inputs
        if task == "follow":
            batch, rng, lesson, weights = inputs
            return clip_loss(CloseTracking(self.model), batch, rng=rng, lesson=lesson, weights=weights)  # type: ignore[arg-type]  # as above
        if task == "dense":
            return self.dense_head(*inputs)
        if task in ("extend", "outline"):
            fine = self.model.decoder.fine
            assert isinstance(fine, OutlineHead)
            if task == "extend":
                return fine.extended(*inputs)  # type: ignore[arg-type]  # as above
            looked, tokens, beside = inputs
            return fine(looked, fine.told(tokens), beside)  # type: ignore[arg-type]  # as above
        features, xy, labels, masks = inputs
        return self.model.decode_all(
            features,  # type: ignore[arg-type]  # as above
            xy,  # type: ignore[arg-type]  # as above
            labels,  # type: ignore[arg-type]  # as above
            masks=masks,  # type: ignore[arg-type]  # as above
            with_fine=self.model.config.has_fine,
        )


class LowPrecision:
    """A model's calls with weights cast once per step; gradients reach the float32 originals.

    Casting the small weights instead of the large activations is what autocast does not do: measured on two cores with
    AMX, a step takes 0.75 of its float32 time this way and 1.0 under autocast. Cast are only parameters whose names
    begin with `only`; norms are not, nor second opinions: PyTorch 2.13's gradients of their dilated convolutions, of 24
    channels in bf16, are not finite on a CPU.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype, *, only: str = "") -> None:
        self.module = module
        self.dtype = dtype
        self.only = only
        self.kept = {
            f"{name}.{key}"
            for name, part in module.named_modules()
            if isinstance(part, (nn.BatchNorm2d, SecondOpinion))
            for key, _ in part.named_parameters()
        }
        self.refresh()

    def refresh(self) -> None:
        """Cast the weights again, after the optimiser moved them."""
        self.weights = {
            name: p
            if name in self.kept or not name.startswith(self.only) or self.dtype == torch.float32
            else p.to(self.dtype)
            for name, p in self.module.named_parameters()
        }

    def __call__(self, task: str, *inputs: object) -> object:
        """Run a task of the module with the cast weights."""
        return functional_call(self.module, self.weights, (task, *inputs))


def take_over(module: Trainable, base: str, *, learns: tuple[str, ...]) -> None:
    """Give a model the weights of its base, and freeze all but the parameters with one of `learns` in their names.

    What learns begins anew, even where the base has it.
    """
    own = module.model.state_dict()
    weights = {
        name: value
        for name, value in read_weights(find_weights(spec_of(base))).items()
        if not any(part in f"model.{name}" for part in learns)
    }
    first = {  # following begins as the image model answers, if the base does not follow
        new + name.removeprefix(old): value
        for old, new in (("sam_mask_decoder.", "memory.decoder."), ("sam_prompt_encoder.", "memory.prompts."))
        for name, value in weights.items()
        if name.startswith(old) and new + name.removeprefix(old) in own
    }
    module.model.load_state_dict(own | first | weights)
    for name, parameter in module.named_parameters():
        parameter.requires_grad = any(part in name for part in learns)


def take_trunk(model: SemanticSam, base: str) -> None:
    """Give a model the trunk of a SAM 2 with the same one."""
    before = "image_encoder.trunk."
    weights = read_weights(find_weights(spec_of(base)))
    own = {name.removeprefix(before): value for name, value in weights.items() if name.startswith(before)}
    model.image_encoder.load_state_dict(own)

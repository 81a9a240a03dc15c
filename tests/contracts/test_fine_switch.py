"""What every model with fine boundaries keeps: switched off, it is the model beneath; switched on, it says more."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_segany.models.build import CONFIGS, build_model
from napari_segany.models.mask_decoder import FineUse, MaskOutput
from napari_segany.models.promptable import Promptable

from .shrink import ALIKE
from .small import LABELS, XY, Small, small_row

NAMES = [name for name in ALIKE if CONFIGS[name].has_fine]
NANO = "sam2-hq-nano"


@pytest.fixture(scope="module", params=NAMES)
def small(request: pytest.FixtureRequest) -> Small:
    return small_row(request.param)


def base_of(small: Small) -> Promptable:
    """Return the same model, same weights, built without the fine parts."""
    config = replace(small.config, decoder=replace(small.config.decoder, fine=None))
    model = build_model(config).eval()
    weights = {key: value for key, value in small.model.state_dict().items() if ".fine." not in key}
    model.load_state_dict(weights, strict=True)
    return model


def ask(small: Small, *, fine: FineUse, multimask: bool = True) -> MaskOutput:
    output = small.model.decode(small.features(), XY, LABELS, multimask=multimask, fine=fine)
    return small.model.decoder.finish(output)


def shown(answer: MaskOutput) -> Tensor:
    """Return the logits that masks are cut from."""
    return answer.logits if answer.fine is None else answer.fine


@torch.inference_mode()
def test_switched_off_it_is_the_base_model_bit_for_bit(small: Small) -> None:
    base = base_of(small)
    features = base.encode(small.pixels[:1])
    assert torch.equal(features.embedding, small.features().embedding)
    for multimask in (True, False):
        for masks in (None, small.mask_prompt()):
            theirs = base.decode(features, XY, LABELS, masks=masks, multimask=multimask)
            ours = small.model.decode(
                small.features(), XY, LABELS, masks=masks, multimask=multimask, fine="off"
            )
            assert torch.equal(ours.logits, theirs.logits)
            assert torch.equal(ours.ious, theirs.ious)
            assert torch.equal(ours.tokens, theirs.tokens)
            assert ours.fine is None


@torch.inference_mode()
def test_switched_on_it_answers_otherwise(small: Small) -> None:
    for multimask in (True, False):
        off = ask(small, fine="off", multimask=multimask)
        added = ask(small, fine="added", multimask=multimask)
        alone = ask(small, fine="only", multimask=multimask)
        if small.config.decoder.fine.has_outlines:
            plain = F.interpolate(off.logits, scale_factor=2.0, mode="bilinear")
            assert (shown(added) - plain).abs().max() > 1e-3 * plain.abs().max()
        else:
            for one, two in ((off, added), (off, alone), (added, alone)):
                coarse = (one.logits.mean(dim=1), two.logits.mean(dim=1))
                assert (coarse[0] - coarse[1]).abs().max() > 1e-3 * coarse[0].abs().max()
        for answer in (added, alone):
            assert torch.isfinite(shown(answer)).all()


@torch.inference_mode()
def test_outlines_alone_leave_masks_as_large_as_they_are(small: Small) -> None:
    outlined, added = (ask(small, fine=use) for use in ("outlines", "added"))
    if not small.config.decoder.fine.has_outlines:  # nothing else is there
        assert torch.equal(outlined.logits, added.logits)
        return
    drawn = small.model.decode_all(small.features(), XY, LABELS).logits[0]
    for mask in outlined.logits[0]:
        assert (mask - drawn).abs().amax(dim=(1, 2)).min() == 0
    assert not torch.equal(added.logits, outlined.logits)
    assert outlined.fine is not None
    plain = F.interpolate(outlined.logits, scale_factor=2.0, mode="bilinear")
    assert not torch.equal(outlined.fine, plain)


@torch.inference_mode()
def test_as_many_masks_as_the_family_gives(small: Small) -> None:
    is_first, is_nano = small.config.decoder.generation == 1, small.config.decoder.fine.has_outlines
    for multimask, count in ((True, 1 if is_first else 3), (False, 1)):
        answer = ask(small, fine="added", multimask=multimask)
        assert answer.logits.shape[1] == answer.ious.shape[1] == answer.tokens.shape[1] == count
        alone = ask(small, fine="only", multimask=multimask)
        assert alone.logits.shape[1] == (count if is_nano else 1)
        side = small.config.image_size
        assert (answer.fine is not None) == is_nano
        if answer.fine is not None:
            assert answer.fine.shape == (1, count, side, side)


@torch.inference_mode()
@pytest.mark.parametrize("name", [name for name in NAMES if not CONFIGS[name].decoder.fine.has_outlines])
def test_the_fine_mask_is_added_to_the_chosen_one(name: str) -> None:
    small = small_row(name)
    everything = small.model.decode_all(small.features(), XY, LABELS, with_fine=True)
    best = int(everything.ious[0, 1:].argmax()) + 1
    places = [best] if small.config.decoder.generation == 1 else [1, 2, 3]
    answer = ask(small, fine="added")
    torch.testing.assert_close(answer.logits, everything.logits[:, places] + everything.fine)
    torch.testing.assert_close(answer.ious, everything.ious[:, places])
    alone = ask(small, fine="only")
    torch.testing.assert_close(alone.logits, everything.fine)
    single = ask(small, fine="added", multimask=False)
    places = [0] if small.config.decoder.generation == 1 else [0, 1, 2, 3]
    candidates = everything.logits[:, places] + everything.fine
    assert (candidates - single.logits).abs().amax(dim=(2, 3)).min() < 1e-4 * candidates.abs().max()


@torch.inference_mode()
def test_the_released_fine_token_is_attended_to() -> None:
    for name in NAMES:
        if name != NANO:
            small = small_row(name)
            without, with_fine = (
                small.model.decode_all(small.features(), XY, LABELS, with_fine=is_on)
                for is_on in (False, True)
            )
            assert (with_fine.ious - without.ious).abs().max() > 1e-6, name

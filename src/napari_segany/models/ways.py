"""In which way an answer is finished: as the base draws it, with its outlines decided anew, or extended before that.

Fine boundaries are for what is thin or branches, and for outlines that a coarse map cannot hold. Elsewhere they lose
nearly as often as they win: a soft blob has no finer edge than its base drew. What suits an answer is foretold from
what its judge saw of the best mask before anything was done to it; so one that stays as it is costs nothing more.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AS_IT_IS, OUTLINED, EXTENDED = range(3)
"""The ways of whole frames; magnified looks, which leave masks as large as they are, have the first two."""
LEAST = 0.01
"""What must be promised, of the mean of IoU and boundary IoU, for outlines; twice as much for extending, too."""
GAINS = 3
"""How many gains there are to foretell: of the two ways to change masks of whole frames, then of the one of windows."""
_GAINS_OF = {True: slice(0, 2), False: slice(2, 3)}


class WayChoice(nn.Module):
    """What a judge saw of a mask to what each way promises; untrained, it prefers the last one that there is.

    It is linear: a line learns from a few thousand answers what is true of others, too, and a wider network does not.

    Parameters
    ----------
    seen
        S, how much a judge sees of a mask (`judge.Evidence`).
    """

    def __init__(self, seen: int) -> None:
        super().__init__()
        self.gain = nn.Linear(seen, GAINS)
        nn.init.zeros_(self.gain.weight)
        self.gain.bias.data = torch.tensor([0.0, 1.0, 1.0])

    def forward(self, seen: Tensor, *, extends: bool) -> Tensor:
        """Return (B, W) promises of (B, S) looks: W is 3 of whole frames, which `extends` says, and 2 of windows."""
        gains: Tensor = self.gain(seen)[:, _GAINS_OF[extends]]
        least = LEAST * torch.arange(1, gains.shape[1] + 1, device=gains.device)
        return F.pad(gains - least, (1, 0))

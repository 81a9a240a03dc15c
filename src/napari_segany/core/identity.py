"""What features belong to: the content of one plane, its window, and the model and weights that looked at it."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from .errors import ImageError

_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class FeatureKey:
    """Names the features of one plane; keys that differ in any field never answer for each other.

    Attributes
    ----------
    image
        `image_fingerprint` of the plane that was embedded.
    plane
        Its position in the stack; empty for a single image.
    window
        Raw values (low, high) that became black and white.
    model, weights
        Name of the model, and sha256 of its weights.
    """

    image: str
    plane: tuple[int, ...]
    window: tuple[float, float]
    model: str
    weights: str

    def __post_init__(self) -> None:
        low, high = (
            float(end) + 0.0 for end in self.window
        )  # + 0.0: minus zero equals zero, so hash it alike
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ImageError(f"window ends must be finite, got {self.window}")
        object.__setattr__(self, "window", (low, high))
        object.__setattr__(self, "plane", tuple(int(i) for i in self.plane))

    def digest(self) -> str:
        """Return 32 hexadecimal digits that depend on every field."""
        fields = asdict(self) | {"window": [end.hex() for end in self.window]}
        text = json.dumps(fields, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()


def image_fingerprint(plane: ArrayLike) -> str:
    """Return 32 hexadecimal digits that depend on shape, dtype and every value of a plane.

    It is of the very plane that is embedded, not of its stack: hashing 4 megapixels takes milliseconds, where
    hashing a stack would read all of it. Equal planes of different files have equal fingerprints.

    Parameters
    ----------
    plane : (H, W) or (H, W, C)
        Anything that `np.asarray` reads, read whole.

    Raises
    ------
    ImageError
        If its values are Python objects, which have no bytes.
    """
    array = np.asarray(plane)
    if array.dtype.hasobject:
        raise ImageError(f"cannot fingerprint values of dtype {array.dtype}; convert the image to numbers")
    head = json.dumps([list(array.shape), array.dtype.str]).encode()
    state = hashlib.blake2b(len(head).to_bytes(8, "little") + head, digest_size=_DIGEST_BYTES)
    state.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return state.hexdigest()

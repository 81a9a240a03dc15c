"""Every error the package raises on purpose: a `SegAnyError` that is also the builtin a caller would expect."""

from __future__ import annotations


class SegAnyError(Exception):
    """Base of all errors raised here; `except SegAnyError` catches them all."""


class PromptError(SegAnyError, ValueError):
    """A point, box, mask or prompt file that cannot be used."""


class ImageError(SegAnyError, ValueError):
    """An image of the wrong shape, dtype or content."""


class AxesError(SegAnyError, ValueError):
    """Axes that are missing, doubled or contradict the array."""


class EmptyMaskError(SegAnyError, ValueError):
    """A mask without a single pixel where one is needed."""


class UnknownModelError(SegAnyError, LookupError):
    """A model name that no row of the registry has."""


class WeightsError(SegAnyError, RuntimeError):
    """A weights file that is missing, truncated, hostile or of another model."""


class DownloadError(SegAnyError, OSError):
    """A download that failed, was refused, or did not match its hash."""


class StoreError(SegAnyError, OSError):
    """A label store that cannot be created, opened or written."""


class FileFormatError(SegAnyError, ValueError):
    """A file whose content is not what its name promises."""


class DeviceError(SegAnyError, RuntimeError):
    """A device or precision that this machine does not have."""


class OutOfMemoryError(SegAnyError, MemoryError):
    """Not enough memory, after every fallback was tried."""


class DataError(SegAnyError, ValueError):
    """A training or evaluation folder that cannot be used."""


class MissingExtraError(SegAnyError, ImportError):
    """An optional dependency that is not installed."""


class SettingsError(SegAnyError, ValueError):
    """A setting outside of what it may be."""


class CapabilityError(SegAnyError, TypeError):
    """Something asked of a model that it is not made for."""

"""Images that come as floats, as ``ToTensor`` gives them: which values mean which pixels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.preprocess import array_to_image

_SLACK = 1e-3
"""By how much rounding may leave the range of values."""
_BRIGHT = 127
"""The least that the brightest of values up to 255 reaches."""
_DIM = 0.5
"""The most that fractions of an image reach that is black among values up to 255."""


class PixelMap(np.ndarray):
    """A float map (C, H, W) or (H, W, C) that is an image; networks of one's own take the array.

    Attributes:
        white: the value of white.
    """

    white: float = 1.0

    def image(self) -> Image.Image:
        """The image in 8 bits, so that it takes the way of a file."""
        values = np.asarray(self)
        least, most = float(values.min()), float(values.max())
        if not -_SLACK <= least <= most <= self.white + _SLACK * self.white:
            raise InvalidInputError(
                f"an example has values from {least:.4g} to {most:.4g}, and others of its task lie "
                f"in 0 to {self.white:g}, as pixels do; give all of them one range"
            )
        if self.white > 1 and _DIM < most <= 1 and (values != np.rint(values)).any():
            raise InvalidInputError(
                f"an example has values from {least:.4g} to {most:.4g}, as if 1 were white, and "
                f"others of its task reach {self.white:g}; give all of them one range, or whole "
                f"numbers"
            )
        pixels = np.rint(np.clip(values * (255 / self.white), 0, 255)).astype(np.uint8)
        return array_to_image(pixels.transpose(1, 2, 0) if _is_channels_first(pixels) else pixels)


@dataclass(frozen=True)
class FloatMaps:
    """How float maps of 1 or 3 channels read by the values of some of them.

    Attributes:
        least: their smallest value.
        most: their largest value.
        shape: the shape of the first.
    """

    least: float
    most: float
    shape: tuple[int, ...]

    @classmethod
    def of(cls, maps: Iterable[Any]) -> FloatMaps | None:
        """What some examples say; None where they are no such maps."""
        some = list(maps)
        if not some or any(np.ndim(x) != 3 or not {1, 3} & {len(x), x.shape[2]} for x in some):
            return None
        least, most = min(float(x.min()) for x in some), max(float(x.max()) for x in some)
        return cls(least, most, tuple(some[0].shape))

    @property
    def white(self) -> float | None:
        """The value of white; None where the values are not those of pixels."""
        if self.least < -_SLACK:
            return None
        if self.most <= 1 + _SLACK:
            return 1.0
        return 255.0 if _BRIGHT < self.most <= 255 * (1 + _SLACK) else None

    def __str__(self) -> str:
        """What they are, for the summary of a task."""
        if self.white is not None:
            return f"images (floats of 0 to {self.white:g})"
        return f"numbers (maps of {self.least:.3g} to {self.most:.3g}, as they are)"

    def example(self, values: np.ndarray) -> np.ndarray:
        """One example, marked as an image where its values are those of pixels."""
        if self.white is None:
            return values
        marked = values.view(PixelMap)
        marked.white = self.white
        return marked

    def doubts(self, name: str, size: tuple[int, ...] | None) -> str:
        """What to warn of where an image model takes the maps as inputs; empty for pixels.

        Raises:
            InvalidInputError: the values are neither pixels nor normalised, or the last axis holds
                the channels.
        """
        if self.white is not None:
            return ""
        cure = "give pixels, as uint8 or as floats of 0 to 1"
        if self.least >= 0:
            raise InvalidInputError(
                f"model {name!r} reads images, and the task holds arrays {self.shape} of "
                f"{self.least:.4g} to {self.most:.4g}, whose white is not known; {cure} (divide by "
                f"the value of white), or normalise them and load the model with preprocess= and "
                f"modality='tensor'"
            )
        if not _is_channels_first(np.empty(self.shape, bool)):
            raise InvalidInputError(
                f"model {name!r} reads images, and the task holds arrays {self.shape} of "
                f"{self.least:.4g} to {self.most:.4g} with the channels last; transpose them to "
                f"(N, C, H, W), or {cure}"
            )
        other = size is not None and len(size) == 3 and tuple(size) != self.shape
        of_size = f", and of {self.shape} where it expects {tuple(size or ())}" if other else ""
        return (
            f"model {name!r}: examples of {self.least:.3g} to {self.most:.3g} are taken as "
            f"normalised for it already{of_size}; if they are not, {cure}, and it "
            f"resizes and normalises them itself"
        )


def _is_channels_first(values: np.ndarray) -> bool:
    return len(values) in (1, 3)

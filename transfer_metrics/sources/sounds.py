"""Sounds: waveforms in memory, with their sampling rate where it is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.example import Examples

_LOUDEST = 32.0
"""Far above what a waveform in -1 to 1 reaches, far below unscaled integers."""


@dataclass(frozen=True, eq=False)
class Sound:
    """One waveform.

    Attributes:
        samples: (T,) float32, in -1 to 1.
        rate: samples per second; None where it is not known.
    """

    samples: np.ndarray
    rate: int | None = None

    def __len__(self) -> int:
        return len(self.samples)


def as_sound(example: Any) -> Sound:
    """A waveform (T,), or a mapping with ``array`` and ``sampling_rate`` as ``datasets`` gives it.

    Raises:
        InvalidInputError: it is neither, is empty, has several channels, or its values are not
            finite or not scaled to -1 to 1.

    >>> sound = as_sound({"array": [0.0, 0.5, -0.5], "sampling_rate": 16000})
    >>> len(sound), sound.rate
    (3, 16000)
    """
    if isinstance(example, Sound):
        return example
    rate = None
    if isinstance(example, Mapping):
        if "array" not in example:
            raise InvalidInputError(
                f"a sound has the entries {', '.join(map(str, example))}; it needs 'array' and "
                f"'sampling_rate'"
            )
        given = example.get("sampling_rate")
        rate, example = (None if given is None else int(given)), example["array"]
    samples = np.asarray(example.detach().cpu() if hasattr(example, "detach") else example)
    if samples.ndim != 1 or not samples.size or samples.dtype.kind not in "fiu":
        raise InvalidInputError(
            f"a sound has the shape {samples.shape} and type {samples.dtype}; give one channel, a "
            f"waveform (T,) of real numbers, for example the mean of the channels"
        )
    samples = np.ascontiguousarray(samples, dtype=np.float32)
    most = float(np.abs(samples).max())
    if not most <= _LOUDEST:  # NaN compares false
        raise InvalidInputError(
            f"a sound has values up to {most:.4g}; waveforms lie in -1 to 1 (divide 16-bit samples "
            f"by 32768)"
        )
    return Sound(samples, rate)


def is_sound(example: Any) -> bool:
    """Whether an example can be nothing but a sound; bare arrays can be other things.

    >>> is_sound({"array": [0.0], "sampling_rate": 8000}), is_sound(np.zeros(3))
    (True, False)
    """
    return isinstance(example, Sound) or (isinstance(example, Mapping) and "array" in example)


@dataclass(frozen=True, eq=False)
class Sounds(Examples):
    """Waveforms, which may differ in length."""

    modality = "audio"

    sounds: Sequence[Sound]

    def __len__(self) -> int:
        return len(self.sounds)

    def read(self, index: int) -> Sound:
        """One of them."""
        return self.sounds[index]


def as_sounds(values: Sequence[Any], where: str) -> Sounds:
    """A list of waveforms or of mappings as examples.

    Raises:
        InvalidInputError: one of them cannot be used; says which.

    >>> len(as_sounds([np.zeros(100), np.zeros(80)], "task 'noises'"))
    2
    """
    sounds = []
    for place, value in enumerate(values):
        try:
            sounds.append(as_sound(value))
        except InvalidInputError as error:
            raise InvalidInputError(f"{where}, example {place}: {error}") from error
    return Sounds(sounds)

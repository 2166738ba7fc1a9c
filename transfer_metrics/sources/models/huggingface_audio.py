"""Waveforms to what the audio models of transformers read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.example import as_sound

_Convolution = tuple[int, int, int]
"""Kernel, stride and padding along time."""

_TIGHT = ("hubert", "unispeech", "unispeech-sat", "wav2vec2", "wavlm")
"""Networks whose features do not depend on masked padding, unless they normalise over time."""
_MEL_CONVOLUTIONS: dict[str, list[_Convolution]] = {"whisper": [(3, 1, 1), (3, 2, 1)]}
"""Of encoders that convolve a spectrogram and whose configuration does not say how."""


@dataclass(frozen=True)
class Waveform:
    """One sound to its samples, checked against what a model reads."""

    rate: int  # samples per second that the model was trained with
    shortest: int = 1  # samples that it needs at least
    longest: int = 0  # samples after which a sound is cut; 0 where it is read to its end

    @classmethod
    def of(cls, extractor: Any, config: Any, accepted: frozenset[str]) -> Waveform:
        """For a network with such a configuration, that accepts arguments of these names."""
        shortest = extractor.sampling_rate // 40  # of a spectrogram one window of at most 25 ms
        if "input_values" in accepted and not has_window(extractor):
            shortest = 1  # what one output of the convolutions depends on
            for kernel, stride, _ in reversed(convolutions(config)):
                shortest = (shortest - 1) * stride + kernel
        return cls(extractor.sampling_rate, shortest, getattr(extractor, "nb_max_samples", 0))

    def __call__(self, example: Any) -> np.ndarray:
        """A sound to (T,) float32, at the rate of the model whatever its own."""
        sound = as_sound(example)
        samples = sound.samples
        if sound.rate not in (None, self.rate):
            from scipy.signal import resample_poly

            common = math.gcd(self.rate, sound.rate)
            samples = resample_poly(samples, self.rate // common, sound.rate // common)
        if len(samples) < self.shortest:
            raise InvalidInputError(
                f"a sound of {len(samples)} samples is shorter than the {self.shortest} that the "
                f"model needs; leave it out, or add silence"
            )
        return np.ascontiguousarray(samples[: self.longest or None], dtype=np.float32)


@dataclass(frozen=True)
class Waves:
    """Waveforms through a feature extractor of transformers."""

    extractor: Any
    accepted: tuple[str, ...]  # names of the network's arguments, sorted for fingerprints
    masked: bool  # whether it gets a mask of the padding: it was trained so, or poolings need it
    equal_lengths: bool  # whether padding would leak into features; who makes batches sees to it

    @classmethod
    def of(cls, extractor: Any, config: Any, accepted: frozenset[str]) -> Waves:
        """For a network with such a configuration, that accepts arguments of these names."""
        window = has_window(extractor)
        tight = (
            getattr(extractor, "return_attention_mask", False)
            and config.model_type in _TIGHT
            and config.feat_extract_norm == "layer"
            and not getattr(config, "add_adapter", False)
        )
        chain = convolutions(config)
        # In a window only poolings need the mask.
        masked = "attention_mask" in accepted and bool(chain) and (window or tight)
        return cls(extractor, tuple(sorted(accepted)), masked, not (window or tight))

    def __call__(self, waves: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """Waveforms (T,) to the keyword arguments of the network."""
        # Extractors with a window of their own, such as 30 seconds, pad to it when not told.
        padding: dict[str, Any] = {} if has_window(self.extractor) else {"padding": True}
        if self.masked:
            padding["return_attention_mask"] = True
        rate = self.extractor.sampling_rate
        batch = self.extractor(list(waves), sampling_rate=rate, return_tensors="pt", **padding)
        kept = {name: torch.as_tensor(t) for name, t in batch.items() if name in self.accepted}
        if not self.masked:
            kept.pop("attention_mask", None)
        if "is_longer" in kept:  # none is, once cut; CLAP's extractor says so of one at random
            kept["is_longer"] = torch.zeros_like(kept["is_longer"], dtype=torch.bool)
        return kept


def has_window(extractor: Any) -> bool:
    """Whether an extractor cuts and pads every sound to one length."""
    return any(hasattr(extractor, name) for name in ("n_samples", "nb_max_samples", "max_length"))


def convolutions(config: Any) -> list[_Convolution]:
    """The convolutions along time through which a masked input of a network goes."""
    kernels, strides = (getattr(config, name, None) for name in ("conv_kernel", "conv_stride"))
    if isinstance(kernels, (list, tuple)) and isinstance(strides, (list, tuple)):
        return [(k, s, 0) for k, s in zip(kernels, strides, strict=True)]
    return _MEL_CONVOLUTIONS.get(getattr(config, "model_type", ""), [])

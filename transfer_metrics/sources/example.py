"""What one example is: an image, a text, a word of a sentence, a sound, an array of numbers.

Arrays of floats may be images, as ``ToTensor`` gives them, by their values.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.naming import a_type
from transfer_metrics.sources.preprocess import array_to_image

Modality = Literal["image", "text", "audio", "tensor"]
_CANCELLED = 0.01
"""Share of the power of the channels that their mean has at least, unless they cancel."""
_LOUDEST = 32.0
"""Far above what a waveform in -1 to 1 reaches, far below unscaled integers."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By the number of the orientation in EXIF."""
_SLACK = 1e-3
"""By how much rounding may leave the range of values."""
_BRIGHT = 127
"""The least that the brightest of values up to 255 reaches."""
_DIM = 0.5
"""The most that fractions of an image reach that is black among values up to 255."""
# Pillow can also open formats that start other programs; these do not.
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "GIF", "TIFF", "WEBP")


@dataclass(frozen=True)
class Word:
    """One word of a sentence: all its words, and which of them, from 0."""

    sentence: tuple[str, ...]
    position: int

    def encode(self) -> bytes:
        """What identifies the word, for fingerprints."""
        return "\0".join([str(self.position), *self.sentence]).encode()


@dataclass(frozen=True, eq=False)
class Sound:
    """One waveform: (T,) float32 in -1 to 1, and samples per second where that is known."""

    samples: np.ndarray
    rate: int | None = None

    def __len__(self) -> int:
        return len(self.samples)


def as_sound(example: Any) -> Sound:
    """A waveform (T,) or (1, T), or a mapping with ``array`` and ``sampling_rate``."""
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
    samples = samples[0] if samples.ndim == 2 and len(samples) == 1 else samples
    if samples.ndim != 1 or not samples.size or samples.dtype.kind not in "fiu":
        raise InvalidInputError(
            f"a sound has the shape {samples.shape} and type {samples.dtype}; give one channel, a "
            f"waveform (T,) of real numbers, for example the mean of the channels"
        )
    if rate is not None and rate < 1:
        raise InvalidInputError(f"a sound has {rate} samples per second; give its true rate")
    whole = samples.dtype.kind in "iu"
    samples = np.ascontiguousarray(samples, dtype=np.float32)
    most = float(np.abs(samples).max())
    if not most <= (1 if whole else _LOUDEST):  # NaN compares false
        raise InvalidInputError(
            f"a sound has values up to {most:.4g}; waveforms lie in -1 to 1 (divide 16-bit samples "
            f"by 32768)"
        )
    return Sound(samples, rate)


def decode_sound(data: bytes, name: str) -> Sound:
    """Read a WAV file, of several channels their mean; ``name`` is for messages."""
    try:
        rate, samples = _wave(data)
        if samples.dtype.kind in "iu":
            # Bytes are centred at 128, wider numbers at 0; those of 24 bits come as 32.
            middle = 128 if samples.dtype == np.uint8 else 0
            samples = (samples.astype(np.float64) - middle) / 2.0 ** (8 * samples.itemsize - 1)
        if samples.ndim == 2:
            channels, samples = samples, samples.mean(axis=1)
            if np.square(samples).mean() < _CANCELLED * np.square(channels).mean():
                warn(
                    f"sound {name!r}: its {channels.shape[1]} channels cancel in their mean, which "
                    f"is read, as in opposite phase; write one of them into a file of its own"
                )
        return as_sound({"array": samples, "sampling_rate": rate})
    except ValueError as error:
        raise InvalidInputError(
            f"sound {name!r} cannot be read ({error}); give a WAV file of "
            f"samples that are not compressed, or leave it out by corrupt=skip in the task's name"
        ) from error


def _wave(data: bytes) -> tuple[int, np.ndarray]:
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            # Of chunks that players write and nothing here needs.
            warnings.simplefilter("ignore", wavfile.WavFileWarning)
            if data[4:8] != b"\xff\xff\xff\xff":  # what streams have for their length
                cut = wavfile.WavFileWarning
                warnings.filterwarnings("error", "Reached EOF prematurely", cut)
            return wavfile.read(io.BytesIO(data))
    except Exception as error:  # its parser raises what its slices do
        if not data.startswith((b"RIFF", b"RIFX", b"RF64")):
            raise ValueError("no WAV file" if data else "empty") from error
        order: Any = "big" if data.startswith(b"RIFX") else "little"
        expected = int.from_bytes(data[4:8], order) + 8
        if len(data) < expected < 1 << 32 or isinstance(error, wavfile.WavFileWarning):
            raise ValueError(f"it ends after {len(data)} of expected {expected} bytes") from error
        compressed = str(error).startswith("Unknown wave file format")
        raise ValueError(str(error).partition(". ")[0] if compressed else "damaged") from error


def rate_of(dataset: Any, example: Any) -> int | None:
    """Samples per second of waveforms (T,) or (1, T) that a torch dataset says; none of others."""
    rates = (getattr(dataset, name, None) for name in ("sample_rate", "sampling_rate"))
    rate = next((rate for rate in rates if isinstance(rate, int)), None)
    shape = np.shape(example)
    is_wave = len(shape) == 1 or (len(shape) == 2 and shape[0] == 1)
    if rate is None and hasattr(dataset, "indices"):
        return rate_of(getattr(dataset, "dataset", None), example)
    return rate if is_wave and np.asarray(example).dtype.kind == "f" else None


def is_sound(example: Any) -> bool:
    """Whether an example can be nothing but a sound; bare arrays can be other things."""
    return isinstance(example, Sound) or (isinstance(example, Mapping) and "array" in example)


def is_pair(example: Any) -> bool:
    """Whether an example is two texts."""
    two = isinstance(example, (tuple, list)) and len(example) == 2
    return two and all(isinstance(part, str) for part in example)


def is_blank(example: Any) -> bool:
    """Whether an example is a text without any sign, or a pair of such."""
    if isinstance(example, str):
        return not example.strip()
    return is_pair(example) and not "".join(example).strip()


def example_modality(example: Any) -> Modality:
    """Tell an image, a text, a sound and an array of numbers apart."""
    if isinstance(example, Image.Image):
        return "image"
    if is_sound(example):
        return "audio"
    if isinstance(example, (str, Word)) or is_pair(example):
        return "text"
    if hasattr(example, "dtype") and hasattr(example, "shape"):
        return "tensor"
    raise InvalidInputError(
        f"an example is {a_type(example)}; examples are PIL images, strings, pairs of "
        f"strings, sounds, arrays or tensors"
    )


def example_bytes(example: Any) -> bytes:
    """What identifies one decoded example, for fingerprints."""
    if isinstance(example, (str, Word)):
        return example.encode()
    if isinstance(example, (tuple, list)):
        return "\0\0".join(example).encode()
    given = example_modality(example)
    if given == "audio":
        sound = as_sound(example)
        return f"{sound.rate}\0".encode() + sound.samples.tobytes()
    if given == "image":
        return f"{example.mode}{example.size}\0".encode() + example.tobytes()
    array = np.ascontiguousarray(example)
    return f"{array.dtype}{array.shape}\0".encode() + array.tobytes()


def decode(data: bytes, name: str) -> Image.Image:
    """Decode an image file, turned upright as its EXIF data says; ``name`` is for messages.

    Of at most ``PIL.Image.MAX_IMAGE_PIXELS`` pixels; programs that trust their images can raise it.
    """
    try:
        with warnings.catch_warnings():
            # Of what is not read here: EXIF of cameras, settings of printers.
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            image.load()
            upright = _upright(image)
            if image.format == "PPM" and image.mode == "I":  # of 16 bits, of which Pillow makes 32
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            if image.format == "TIFF" and image.mode.startswith("I;16"):  # of 9 to 16 bits
                [bits, *_] = image.tag_v2.get(ExifTags.Base.BitsPerSample, (16,))  # type: ignore
                upright = Image.fromarray(np.asarray(upright).astype(np.uint16) << (16 - bits))
            upright.filename = name  # type: ignore[attr-defined]  # for who cannot use it
            return upright
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InvalidInputError(
            f"image {name!r} claims more pixels than Pillow deems safe ({error}); make it smaller "
            f"or remove it"
        ) from error
    except Exception as error:  # Pillow's decoders raise a dozen different exceptions
        why = f" ({type(error).__name__}: {error})"
        if isinstance(error, UnidentifiedImageError):  # whose own message names a memory address
            why = ": it is no image that Pillow knows"
        raise InvalidInputError(
            f"image {name!r} does not decode{why}; replace or remove the file"
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    """An image turned as its EXIF data says; as it is where they say nothing that can be read.

    Pillow's own function fails, or turns nothing, where anything else in the data is damaged.
    """
    try:
        turn = _TURNS[int(image.getexif()[ExifTags.Base.Orientation])]
    except Exception:  # a dozen different ones, of data that cameras and editors wrote
        return image
    return image.transpose(turn)


class PixelMap(np.ndarray):
    """A float map (C, H, W) or (H, W, C) that is an image; networks of one's own take the array."""

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
        if {len(values), values.shape[2]} <= {1, 3} and values.size not in (1, 3):
            raise InvalidInputError(
                f"an example has the shape {values.shape}, whose channels may be the first or the "
                f"last; give pixels as uint8 (H, W) or (H, W, 3)"
            )
        pixels = np.rint(np.clip(values * (255 / self.white), 0, 255)).astype(np.uint8)
        return array_to_image(pixels.transpose(1, 2, 0) if len(pixels) in (1, 3) else pixels)


@dataclass(frozen=True)
class FloatMaps:
    """How float maps of 1 or 3 channels read by the values of some: from least to most."""

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

        It is an error where values are not normalised either, or the last axis holds the channels.
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
        if self.shape[0] not in (1, 3):
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

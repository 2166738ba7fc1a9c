"""What one example is: an image, a text, a word of a sentence, a sound, an array of numbers."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from transfer_metrics.errors import InvalidInputError

Modality = Literal["image", "text", "audio", "tensor"]
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
    """A waveform (T,), or a mapping with ``array`` and ``sampling_rate`` as ``datasets`` gives it.

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


def decode_sound(data: bytes, name: str) -> Sound:
    """Read a WAV file, of several channels their mean; ``name`` is for messages."""
    try:
        rate, samples = _wave(data)
        if samples.dtype.kind in "iu":
            # Bytes are centred at 128, wider numbers at 0; those of 24 bits come as 32.
            middle = 128 if samples.dtype == np.uint8 else 0
            samples = (samples.astype(np.float64) - middle) / 2.0 ** (8 * samples.itemsize - 1)
        samples = samples if samples.ndim == 1 else samples.mean(axis=1)
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
    """Tell an image, a text, a sound and an array of numbers apart.

    >>> example_modality("some words"), example_modality(np.zeros(3))
    ('text', 'tensor')
    """
    if isinstance(example, Image.Image):
        return "image"
    if is_sound(example):
        return "audio"
    if isinstance(example, (str, Word)) or is_pair(example):
        return "text"
    if hasattr(example, "dtype") and hasattr(example, "shape"):
        return "tensor"
    raise InvalidInputError(
        f"an example is a {type(example).__name__}; examples are PIL images, strings, pairs of "
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

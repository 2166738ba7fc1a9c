"""The image transform equals those of the libraries that the models come from."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from transfer_metrics.errors import InvalidInputError, UnknownNameError
from transfer_metrics.sources.preprocess import ImagePreprocess, array_to_image, to_mode

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = [(64, 64), (100, 67), (67, 100), (31, 200), (300, 299)]


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "lanczos"])
@pytest.mark.parametrize(("target", "crop"), [(64, 0.875), (48, 0.95), (50, 1.0), (33, 0.9)])
def test_equals_timm(size, interpolation: str, target: int, crop: float) -> None:
    from timm.data import create_transform

    theirs = create_transform(
        (3, target, target),
        is_training=False,
        interpolation=interpolation,
        mean=MEAN,
        std=STD,
        crop_pct=crop,
        crop_mode="center",
    )
    image = picture(*size)
    assert torch.equal(
        ImagePreprocess(target, MEAN, STD, interpolation, crop)(image), theirs(image)
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny", "swin_v2_t", "inception_v3"])
def test_equals_torchvision(size, name: str) -> None:
    from torchvision.models import get_model_weights

    theirs = get_model_weights(name).DEFAULT.transforms()
    ours = ImagePreprocess.from_resize(
        theirs.crop_size[0],
        theirs.resize_size[0],
        mean=theirs.mean,
        std=theirs.std,
        interpolation=theirs.interpolation.value,
    )
    assert torch.equal(ours(picture(*size)), theirs(picture(*size)))


@given(st.integers(1, 600), st.integers(0, 200))
def test_from_resize_keeps_the_resize(size: int, more: int) -> None:
    assert ImagePreprocess.from_resize(size, size + more).resize == size + more


@settings(max_examples=30)
@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 40), st.floats(0.3, 1))
def test_shape_whatever_the_image(width: int, height: int, size: int, crop: float) -> None:
    result = ImagePreprocess(size, MEAN, STD, crop_pct=crop)(picture(width, height))
    assert result.shape == (3, size, size)
    assert result.dtype == torch.float32


def test_values_by_hand() -> None:
    image = np.array([[0, 255], [51, 102]], np.uint8)
    result = ImagePreprocess(2, mean=(0.5,), std=(0.25,))(image)
    assert torch.allclose(result, torch.tensor([[[-2.0, 2.0], [-1.2, -0.4]]]))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_every_usual_mode_becomes_rgb_and_grey(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((5, 4), 128 * 256 + 7, np.uint16))
    else:
        image = picture(4, 5, mode if mode != "LA" else "L").convert(mode)
    assert to_mode(image, "RGB").mode == "RGB"
    assert ImagePreprocess(4, (0.0,), (1.0,))(image).shape == (1, 4, 4)
    if mode == "I;16":
        assert np.unique(to_mode(image, "L")).tolist() == [128]


def test_transparent_palette_does_not_warn() -> None:
    image = picture(4, 4, "P")
    image.info["transparency"] = b"\x00\x80"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_mode(image, "RGB").size == (4, 4)


@pytest.mark.parametrize("image", [Image.new("RGB", (0, 5)), np.zeros((0, 5, 3), np.uint8)])
def test_images_without_a_pixel_are_refused(image) -> None:
    with pytest.raises(InvalidInputError, match="pixels has none; leave it out"):
        ImagePreprocess(4)(image)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_pixels_are_refused(mode: str) -> None:
    with pytest.raises(InvalidInputError, match="32-bit"):
        to_mode(picture(2, 2, "L").convert(mode), "RGB")


@pytest.mark.parametrize(
    "array", [np.zeros((3, 3), np.float32), np.zeros((3, 3, 2), np.uint8), np.zeros(3, np.uint8)]
)
def test_arrays_that_are_no_images(array: np.ndarray) -> None:
    with pytest.raises(InvalidInputError, match="no image"):
        array_to_image(array)


@pytest.mark.parametrize(
    "bad",
    [
        {"size": 0},
        {"size": 2.5},
        {"mean": (0.5, 0.5)},
        {"std": (1.0,)},
        {"std": (1.0, 0.0, 1.0)},
        {"crop_pct": 0.0},
        {"crop_pct": 1.5},
    ],
)
def test_values_out_of_range(bad: dict) -> None:
    with pytest.raises(InvalidInputError):
        ImagePreprocess(**{"size": 8, **bad})


def test_unknown_interpolation() -> None:
    with pytest.raises(UnknownNameError, match="bicubic"):
        ImagePreprocess(8, interpolation="bicubc")


def test_equality_and_repr_describe_the_values() -> None:
    assert ImagePreprocess(8) == ImagePreprocess(8)
    assert repr(ImagePreprocess(8)) != repr(ImagePreprocess(8, crop_pct=0.5))

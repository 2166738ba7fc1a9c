"""Render the ``glyphs`` task and new digits: ``python data/make_glyphs.py [--out data]``.

Capital letters and digits from the fonts that matplotlib ships, drawn large, turned, scaled,
shifted and thickened at random, reduced to 32x32 and given a little noise. Training and test
images come from the same font families, the out-of-distribution images from others. Every image
has its own random stream, so the same versions of matplotlib, Pillow and numpy give the same file.

The new digits are three large pictures to predict on with a head that was trained on
``sklearn:digits``: as light, as blurred and as tall in the picture as those.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import string
import sys
import zipfile
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import PIL
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SEED = 0
SIZE = 32
CANVAS = 4 * SIZE
CLASSES = string.ascii_uppercase + string.digits
# cmmi10, cmsy10 and cmex10 are left out (old-style digits, script capitals and symbols where the
# letters should be), as are the STIX fonts for symbols, which have no letters.
FAMILIES = {
    "DejaVu Sans": (
        "DejaVuSans",
        "DejaVuSans-Bold",
        "DejaVuSans-Oblique",
        "DejaVuSans-BoldOblique",
    ),
    "DejaVu Sans Mono": (
        "DejaVuSansMono",
        "DejaVuSansMono-Bold",
        "DejaVuSansMono-Oblique",
        "DejaVuSansMono-BoldOblique",
    ),
    "DejaVu Serif": (
        "DejaVuSerif",
        "DejaVuSerif-Bold",
        "DejaVuSerif-Italic",
        "DejaVuSerif-BoldItalic",
    ),
    "STIX General": (
        "STIXGeneral",
        "STIXGeneralBol",
        "STIXGeneralItalic",
        "STIXGeneralBolIta",
    ),
    "Computer Modern": ("cmr10", "cmb10", "cmti10", "cmss10", "cmtt10"),
}
SEEN = ("DejaVu Sans", "DejaVu Sans Mono", "DejaVu Serif")
UNSEEN = ("STIX General", "Computer Modern")
NEW = "257"
# Families of each split, and images per class and font.
SPLITS = {"train": (SEEN, 3), "test": (SEEN, 2), "ood": (UNSEEN, 3)}


def font_path(name: str) -> Path:
    """The ttf file of a font in matplotlib's data folder."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"


def draw(character: str, font: Path, random: np.random.Generator) -> np.ndarray:
    """One light character on a dark ground, uint8 (32, 32)."""
    points = int(random.integers(64, 117))
    face = ImageFont.truetype(str(font), points, layout_engine=ImageFont.Layout.BASIC)
    stroke = int(random.integers(0, 4))
    canvas = Image.new("L", (CANVAS, CANVAS))
    pen = ImageDraw.Draw(canvas)
    left, top, right, bottom = pen.textbbox((0, 0), character, font=face, stroke_width=stroke)
    room = (max(0.0, CANVAS - (right - left)) / 2, max(0.0, CANVAS - (bottom - top)) / 2)
    x, y = (min(16.0, space) * random.uniform(-1, 1) for space in room)
    corner = ((CANVAS - left - right) / 2 + x, (CANVAS - top - bottom) / 2 + y)
    pen.text(corner, character, fill=255, font=face, stroke_width=stroke, stroke_fill=255)
    angle = random.uniform(-20, 20)
    turned = canvas.rotate(angle, Image.Resampling.BICUBIC)
    small = np.asarray(turned.resize((SIZE, SIZE), Image.Resampling.BOX), dtype=np.float64)
    ground = random.uniform(0, 60)
    ink = random.uniform(140, 255)
    noisy = ground + (ink - ground) / 255 * small + random.normal(0, 12, small.shape)
    # Sixteen grey levels: the noise stays visible and the file small.
    return (np.clip(np.rint(noisy / 17), 0, 15) * 17).astype(np.uint8)


def render(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 32, 32) uint8 and labels (N,) int64 of one split, in shuffled order."""
    families, repeats = SPLITS[split]
    number = list(SPLITS).index(split)
    fonts = [name for family in families for name in FAMILIES[family]]
    images, labels = [], []
    for label, character in enumerate(CLASSES):
        for index, name in enumerate(fonts):
            for repeat in range(repeats):
                random = np.random.default_rng([SEED, number, label, index, repeat])
                images.append(draw(character, font_path(name), random))
                labels.append(label)
    order = np.random.default_rng([SEED, number]).permutation(len(labels))
    return np.stack(images)[order], np.array(labels, dtype=np.int64)[order]


def new_digit(character: str) -> bytes:
    """One large digit, turned, blurred and noisy, as a PNG file."""
    random = np.random.default_rng([SEED, len(SPLITS), CLASSES.index(character)])
    face = ImageFont.truetype(str(font_path("DejaVuSans")), 168)
    canvas = Image.new("L", (CANVAS, CANVAS))
    ImageDraw.Draw(canvas).text(
        (CANVAS / 2, CANVAS / 2), character, fill=255, font=face, anchor="mm", stroke_width=2
    )
    turned = canvas.rotate(random.uniform(-10, 10), Image.Resampling.BICUBIC)
    blurred = np.asarray(turned.filter(ImageFilter.GaussianBlur(3)), dtype=np.float64)
    noisy = 6 + 0.9 * blurred + random.normal(0, 6, blurred.shape)
    file = io.BytesIO()
    Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def arrays() -> dict[str, np.ndarray]:
    """Everything in the file: ``x_<split>``, ``y_<split>`` and ``classes``."""
    made: dict[str, np.ndarray] = {}
    for split in SPLITS:
        made[f"x_{split}"], made[f"y_{split}"] = render(split)
    made["classes"] = np.array(list(CLASSES))
    return made


def pack(values: dict[str, np.ndarray]) -> bytes:
    """An npz file with fixed dates, so that equal arrays give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, value in values.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            part = io.BytesIO()
            np.lib.format.write_array(part, value, allow_pickle=False)
            archive.writestr(entry, part.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)
    return buffer.getvalue()


def record(values: dict[str, np.ndarray], data: bytes) -> dict[str, Any]:
    """The manifest entry of the rendered file."""
    return {
        "name": "glyphs",
        "file": "glyphs.npz",
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "num_classes": len(CLASSES),
        "seed": SEED,
        "splits": {
            split: {
                "images": len(values[f"y_{split}"]),
                "families": {family: list(FAMILIES[family]) for family in families},
            }
            for split, (families, _) in SPLITS.items()
        },
        "made_with": {
            "matplotlib": matplotlib.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
        },
    }


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def main(arguments: list[str] | None = None) -> int:
    """Render the task and write it with its manifest, and the new digits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args(arguments)
    for folder in ("tasks", "new"):
        (options.out / folder).mkdir(parents=True, exist_ok=True)
    values = arrays()
    data = pack(values)
    write(options.out / "tasks" / "glyphs.npz", data)
    manifest = {"format": 1, "tasks": [record(values, data)]}
    write(options.out / "tasks" / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())
    for character in NEW:
        write(options.out / "new" / f"{character}.png", new_digit(character))
    return 0


if __name__ == "__main__":
    sys.exit(main())

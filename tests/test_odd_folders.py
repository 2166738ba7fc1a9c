"""Folders and images as people have them: each is read right, or refused with the cure."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.sources.example import decode
from transfer_metrics.sources.preprocess import _MOST_ASPECT, ImagePreprocess, to_mode
from transfer_metrics.sources.specs import parse_task, with_options
from transfer_metrics.sources.tasks.load_task import load_task

RNG = np.random.default_rng(0)


def fill(folder: Path, *names: str) -> None:
    """Images of random pixels, so that no two are equal."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(RNG.integers(0, 256, (6, 8, 3), np.uint8)).save(folder / name, "PNG")


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


# ---------------------------------------------------------------- splits by other names


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training_set", "test_set"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("train_images", "testImages"),
        ("train/train", "test/test"),
        ("trainset", "testset"),
        ("train2017", "test2017"),
    ],
)
def test_splits_that_are_called_otherwise(tmp_path: Path, train: str, test: str) -> None:
    for split, names in ((train, "123"), (test, "4")):
        for kind in ("ant", "bee"):
            fill(tmp_path / split / kind, *(f"{name}.png" for name in names))
    (tmp_path / "annotations").mkdir()
    with pytest.warns(TransferMetricsWarning, match=r"left out annotations \(no image in it\)"):
        task = load_task(f"imagefolder:{tmp_path}")
    assert task.classes == ("ant", "bee")
    sizes = {split: part.labels.tolist() for split, part in task.splits.items()}
    assert sizes == {"train": [0, 0, 0, 1, 1, 1], "test": [0, 1]}


@pytest.mark.parametrize("splits", [("test", "val"), ("training", "validation"), ("train", "test")])
def test_splits_without_classes_are_no_classes(tmp_path: Path, splits: tuple[str, str]) -> None:
    for split in splits:
        fill(tmp_path / split, "1.png", "2.png")
    with pytest.raises(InvalidInputError, match="names of splits and not of classes"):
        load_task(f"imagefolder:{tmp_path}")


def test_splits_inside_of_classes_are_not_read_as_one(tmp_path: Path) -> None:
    for kind in ("ant", "bee"):
        fill(tmp_path / kind / "train", "1.png")
        fill(tmp_path / kind / "test", "1.png")
    with pytest.raises(InvalidInputError, match="the other way round"):
        load_task(f"imagefolder:{tmp_path}")


@pytest.mark.parametrize("names", [("covid_test", "normal_test"), ("train", "bus"), ("dev", "ops")])
def test_classes_with_the_name_of_a_split(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        fill(tmp_path / name, "1.png", "2.png")
    assert load_task(f"imagefolder:{tmp_path}").classes == tuple(sorted(names))


@pytest.mark.parametrize(
    "names",
    [
        ("cifar-train-0.tar", "cifar-test-0.tar"),
        ("default/train/0000.tar", "default/test/0000.tar"),
        ("my_training.tar", "my_testing.tar"),
    ],
)
def test_shards_whose_split_is_another_word(tmp_path: Path, names: tuple[str, str]) -> None:
    for shade, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(tmp_path / name, "w") as archive:
            for number in range(4 - shade):
                picture = encoded(Image.new("L", (4, 4), 10 * number + 100 * shade), "PNG")
                for end, content in (("png", picture), ("cls", str(number % 2).encode())):
                    member = tarfile.TarInfo(f"{number}.{end}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    task = load_task(str(tmp_path))
    assert {split: len(part) for split, part in task.splits.items()} == {"train": 4, "test": 3}


# ---------------------------------------------------------------- folders


def test_what_systems_leave_behind_is_no_class_and_no_image(tmp_path: Path) -> None:
    fill(tmp_path / "cat", "1.png", "2.JPG", "3.jfif")
    fill(tmp_path / "dog", "1.png")
    for litter in ("__MACOSX/cat", "@eaDir", "lost+found", "$RECYCLE.BIN", ".git", "cat/@eaDir"):
        fill(tmp_path / litter, "thumb.png")
    fill(tmp_path / "cat", "._1.png")
    for name in (".DS_Store", "cat/Thumbs.db", "dog/desktop.ini"):
        (tmp_path / name).write_bytes(b"x")
    task = load_task(f"imagefolder:{tmp_path}")
    assert task.classes == ("cat", "dog")
    assert task["train"].labels.tolist() == [0, 0, 0, 1]
    [(what, why)] = task.understood.left_out
    assert why.startswith("hidden")
    assert what.startswith("10 such as ")
    assert why in task.summary


def test_all_that_is_left_out_is_counted(tmp_path: Path) -> None:
    fill(tmp_path / "cat", "1.png")
    fill(tmp_path / "dog" / "deep" / "down", "1.png")
    fill(tmp_path, "loose.png")
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    for name in ("cat/a.txt", "cat/b.heic", "dog/deep/c.pdf"):
        (tmp_path / name).write_text("x")
    (tmp_path / "cat" / "gone.png").symlink_to("nowhere.png")
    with pytest.warns(TransferMetricsWarning) as told:
        task = load_task(f"imagefolder:{tmp_path}")
    assert task["train"].labels.tolist() == [0, 1]
    left_out = {
        ("3 such as cat/a.txt", "no image"),
        ("loose.png", "in no class folder"),
        ("cat/gone.png", "a broken link, or one to a folder"),
        ("empty", "no image in it"),
    }
    assert set(task.understood.left_out) == left_out
    assert len(told) == 1
    for what, why in left_out:
        assert f"{what} ({why})" in str(told[0].message)


def test_one_name_in_two_unicode_forms_is_one_class(tmp_path: Path) -> None:
    composed, taken_apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert composed != taken_apart
    fill(tmp_path / "train" / composed, "1.png")
    fill(tmp_path / "train" / taken_apart, "2.png")
    fill(tmp_path / "train" / "dog", "1.png")
    fill(tmp_path / "test" / taken_apart, "1.png")
    fill(tmp_path / "test" / "dog", "1.png")
    task = load_task(f"imagefolder:{tmp_path}")
    assert task.classes == (composed, "dog")
    assert task["train"].labels.tolist() == [0, 0, 1]
    assert task["test"].labels.tolist() == [0, 1]


def test_folders_that_differ_by_case_are_told(tmp_path: Path) -> None:
    for name in ("Cat", "cat", "dog"):
        fill(tmp_path / name, "1.png")
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("names of files have no case here")
    with pytest.warns(TransferMetricsWarning, match="differ only by case.*'Cat', 'cat'"):
        assert load_task(f"imagefolder:{tmp_path}").num_classes == 3


def test_two_folders_of_one_split_are_refused(tmp_path: Path) -> None:
    for split in ("train", "val", "validation"):
        for name in ("a", "b"):
            fill(tmp_path / split / name, "1.png")
    with pytest.raises(InvalidInputError, match=r"'val' and 'validation' are both split 'val'"):
        load_task(f"imagefolder:{tmp_path}")


def test_a_test_folder_without_classes_is_left_out(tmp_path: Path) -> None:
    for name in ("a", "b"):
        fill(tmp_path / "train" / name, "1.png")
    fill(tmp_path / "test", "1.png", "2.png")
    with pytest.warns(TransferMetricsWarning, match=r"2 such as test/1\.png \(in no class folder"):
        task = load_task(f"imagefolder:{tmp_path}")
    assert list(task.splits) == ["train"]


def test_one_folder_too_high_names_the_right_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        fill(tmp_path / "photos" / name, "1.png")
    with pytest.raises(InvalidInputError, match=f"or name imagefolder:{tmp_path / 'photos'}"):
        load_task(f"imagefolder:{tmp_path}")
    fill(tmp_path / "__MACOSX" / "a", "1.png")
    with pytest.raises(InvalidInputError, match="1 class folders with images"):
        load_task(f"imagefolder:{tmp_path}")


@pytest.mark.parametrize("folder", ["a, b 2024", "what?", "x=1", "50%", "#1 (new) [a]*", "q?k=v"])
def test_signs_in_a_path(tmp_path: Path, folder: str) -> None:
    for name in ("a", "b"):
        fill(tmp_path / folder / name, "1.png", "2.png", "3.png")
    spec = f"imagefolder:{tmp_path / folder}"
    assert parse_task(spec) == ("imagefolder", str(tmp_path / folder), {})
    assert len(load_task(spec)["train"]) == 6
    assert len(load_task(with_options(spec, examples=4))["train"]) == 4
    assert len(load_task(f"{spec}/?examples=4")["train"]) == 4


def test_a_folder_or_file_needs_no_source(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "split/train", "split/test", "sklearn:digits", "wine: red"):
        for name in ("a", "b"):
            fill(tmp_path / folder / name, "1.png", "2.png", "3.png")
    (tmp_path / "rows.csv").write_text("text,stars\n" + "good,1\nbad,0\n" * 4)
    (tmp_path / "rows.jsonl").write_text('{"text": "good", "label": 1}\n{"text": "b", "label": 0}')
    np.savez(tmp_path / "rows.npz", X=np.eye(4), y=[0, 1, 0, 1])
    for given, meant in (
        ("photos", "imagefolder:photos"),
        (Path("photos"), "imagefolder:photos"),
        (str(tmp_path / "photos"), f"imagefolder:{tmp_path / 'photos'}"),
        ("photos/?examples=4", "imagefolder:photos/?examples=4"),
        ("split", "imagefolder:split"),
        ("./wine: red", "imagefolder:./wine: red"),
        ("rows.csv?label=stars", "csv:rows.csv?label=stars"),
        ("rows.jsonl", "jsonl:rows.jsonl"),
        ("rows.npz", "npz:rows.npz"),
    ):
        found, expected = load_task(given), load_task(meant)
        assert found.name == meant
        assert list(found.splits) == list(expected.splits)
        assert found["train"].fingerprint == expected["train"].fingerprint
    # A name that is registered stays what it is.
    assert len(load_task("sklearn:digits")["train"]) == 1347
    assert len(load_task("./sklearn:digits")["train"]) == 6
    assert with_options("photos", kind="classification") == (
        "imagefolder:photos?kind=classification"
    )


def test_what_may_be_several_things_is_asked_about(tmp_path: Path) -> None:
    for name in ("a", "b"):
        fill(tmp_path / name, "1.png")
    (tmp_path / "labels.csv").write_text("image,label\na/1.png,x\n")
    with pytest.raises(InvalidInputError, match=f"csv:{tmp_path}/labels.csv or imagefolder:"):
        load_task(str(tmp_path))
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InvalidInputError, match=r"\.txt may be anything; write <source>:"):
        load_task(str(tmp_path / "notes.txt"))
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/rows.csv").write_text("")
    with pytest.raises(InvalidInputError, match=r"name the file: .*tables/rows\.csv"):
        load_task(str(tmp_path / "tables"))
    with pytest.raises(InvalidInputError, match="there is no such file or folder"):
        load_task(str(tmp_path / "absent"))


def test_a_pattern_in_a_folder_of_odd_name(tmp_path: Path) -> None:
    from tests.test_table_tasks import write

    pd = pytest.importorskip("pandas")
    for folder in ("data[1]", "data1"):
        (tmp_path / folder).mkdir()
        frame = pd.DataFrame({"text": [f"{folder} {i}" for i in range(4)], "label": [0, 1, 0, 1]})
        write(frame, tmp_path / folder / "train-0.parquet")
    task = load_task(f"parquet:{tmp_path}/data[1]/train-*.parquet")
    assert list(task["train"].examples) == [f"data[1] {i}" for i in range(4)]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """Two bytes that are no UTF-8 are two classes, whose names can be printed and written."""
    root = os.fsencode(tmp_path) + b"/\xff"
    for name in (b"caf\xe8", b"caf\xe9"):
        try:
            fill(Path(os.fsdecode(root + b"/" + name)), "1.png", os.fsdecode(b"\xfe.png"))
        except OSError:
            pytest.skip("names of files are Unicode here")
    task = load_task(f"imagefolder:{os.fsdecode(root)}")
    assert task.classes == (r"caf\xe8", r"caf\xe9")
    assert task.name == rf"imagefolder:{tmp_path}/\xff"
    for text in (task.name, task.summary, *task.classes):
        text.encode()  # or it could neither be written nor hashed
    assert len(task["train"].fingerprint) == 64


# ---------------------------------------------------------------- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_orientation_of_every_format(orientation: int, kind: str) -> None:
    """Against the definition: where the first row and column of the file are to be shown."""
    upright = np.zeros((32, 48), np.uint8)
    upright[:16, :16] = 255  # the corner at the upper left
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.T, 6: upright.T[::-1], 7: upright.T[::-1, ::-1], 8: upright.T[:, ::-1],
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)
    shown = np.asarray(decode(data, "x").convert("L"), float)
    assert np.abs(shown - upright).max() < 30


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_not_changes_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.new("RGB", (9, 5)), "JPEG", exif=exif)
    assert decode(data, "x").size == (9, 5)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0nonsense",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x0112, 2, 50, 9_000_000),
        b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x0112, 5, 1, 26),
    ],
)
def test_damaged_exif_does_not_fail(exif: bytes) -> None:
    plain = encoded(Image.new("RGB", (9, 5)), "JPEG")
    block = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    assert decode(plain[:2] + block + plain[2:], "x").size == (9, 5)


def test_a_good_orientation_beside_damaged_exif_counts() -> None:
    """The second entry points nowhere, which makes Pillow's own function fail or ignore all."""
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHII", 0x8769, 4, 1, 9_000_000)
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + entries + b"\0\0\0\0"
    plain = encoded(Image.new("RGB", (9, 5)), "JPEG")
    block = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    assert decode(plain[:2] + block + plain[2:], "x").size == (5, 9)


# ---------------------------------------------------------------- pixels


def png16(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits, by its specification; Pillow writes none in colour."""
    height, width, planes = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[planes]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("most", [4096, 20_000, 65_535])
def test_grey_of_16_bits_is_scaled_alike_in_every_image(kind: str, most: int) -> None:
    """By the range of the type, so that a dark picture is as dark beside a bright one."""
    values = np.linspace(0, most, 35).astype(np.uint16).reshape(5, 7)
    image = decode(encoded(Image.fromarray(values), kind), "x")
    grey, colour = np.asarray(to_mode(image, "L")), np.asarray(to_mode(image, "RGB"))
    assert np.array_equal(grey, values // 256)
    assert np.array_equal(colour, np.stack([grey] * 3, axis=-1))


def test_16_bits_of_big_ends() -> None:
    values = np.array([[0, 1000, 65535]], np.uint16)
    image = Image.frombytes("I;16B", (3, 1), values.astype(">u2").tobytes())
    assert np.asarray(to_mode(image, "L")).tolist() == [[0, 3, 255]]


def test_an_image_of_16_bits_that_is_nearly_black_is_told() -> None:
    """As cameras write 12 bits into 16."""
    values = np.array([[0, 1000, 4095]], np.uint16)
    with pytest.warns(TransferMetricsWarning, match="no value above 4095 of 65535"):
        assert np.asarray(to_mode(Image.fromarray(values), "L")).tolist() == [[0, 3, 15]]


@pytest.mark.parametrize("planes", [1, 2, 3, 4])
def test_png_of_16_bits(planes: int) -> None:
    pixels = RNG.integers(0, 65536, (5, 7, planes)).astype(np.uint16)
    pixels[0, 0] = 65535
    shown = np.asarray(to_mode(decode(png16(pixels), "x"), "RGB")).astype(int)
    colours = pixels[..., :1].repeat(3, axis=2) if planes < 3 else pixels[..., :3]
    assert np.abs(shown - colours / 257).max() <= 1


def test_tiff_of_12_bits() -> None:
    """12 bits one after the other, two values in three bytes, as scanners write them."""
    values = [0, 4095, 2048, 16]
    packed = b"".join(
        bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255])
        for a, b in zip(values[::2], values[1::2], strict=True)
    )
    tags = [
        (256, 3, 1, 4), (257, 3, 1, 1), (258, 3, 1, 12), (259, 3, 1, 1), (262, 3, 1, 1),
        (273, 4, 1, 8), (277, 3, 1, 1), (278, 3, 1, 1), (279, 4, 1, len(packed)),
    ]  # fmt: skip
    body = packed + bytes(len(packed) % 2)
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    data = b"II*\0" + struct.pack("<I", 8 + len(body)) + body
    data += struct.pack("<H", len(tags)) + entries + bytes(4)
    assert np.asarray(to_mode(decode(data, "x"), "L")).tolist() == [[0, 255, 128, 1]]


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (Image.new("1", (2, 2), 1), "PNG", (255, 255, 255)),
        (Image.new("LA", (2, 2), (100, 7)), "PNG", (100, 100, 100)),
        (Image.new("RGBA", (2, 2), (10, 20, 30, 0)), "PNG", (10, 20, 30)),
        (Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "TIFF", (255, 0, 0)),
        (Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", (255, 0, 0)),
        (Image.new("RGB", (2, 2), (1, 2, 3)).quantize(2), "GIF", (1, 2, 3)),
    ],
)
def test_modes_become_colours(image: Image.Image, kind: str, expected: tuple) -> None:
    shown = np.asarray(to_mode(decode(encoded(image, kind), "x"), "RGB")).astype(int)
    assert np.abs(shown - np.array(expected)).max() <= 3  # JPEG rounds


def test_a_palette_with_transparency_keeps_its_colours() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([1, 2, 3, 200, 100, 50])
    image.putdata([0, 1])
    data = encoded(image, "PNG", transparency=1)
    assert list(to_mode(decode(data, "x"), "RGB").tobytes()) == [1, 2, 3, 200, 100, 50]


def test_of_an_animation_the_first_picture_counts() -> None:
    frames = [Image.new("RGB", (4, 3), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert to_mode(decode(data, "x"), "RGB").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_of_unknown_range_are_refused_with_the_cure(mode: str) -> None:
    image = decode(encoded(Image.new(mode, (2, 2)), "TIFF"), "x")
    with pytest.raises(InvalidInputError, match="range is not known; convert it to 8 bits"):
        to_mode(image, "RGB")


@pytest.mark.parametrize("mode", ["LAB", "HSV", "YCbCr", "RGBX", "RGBa", "La", "PA"])
@pytest.mark.parametrize("wanted", ["RGB", "L"])
def test_rare_modes_are_converted(mode: str, wanted: str) -> None:
    white = {"HSV": (0, 0, 255), "LAB": (255, 128, 128), "YCbCr": (255, 128, 128)}
    image = Image.new(mode, (2, 2), white.get(mode, (255,) * len(mode)))
    if mode == "PA":
        image = Image.new("L", (2, 2), 255).convert("PA")
    shown = to_mode(image, wanted)
    assert shown.mode == wanted
    assert np.asarray(shown).min() >= 254


# ---------------------------------------------------------------- proportions


@pytest.mark.parametrize("size", [(1, 2000), (2000, 1), (1, 1), (1, 50_000), (3, 7)])
def test_extreme_proportions(size: tuple[int, int]) -> None:
    """One colour stays that colour; a strip of 50 000 would take gigabytes if resized whole."""
    transform = ImagePreprocess(224, mean=(0.0,) * 3, std=(1.0,) * 3, crop_pct=0.875)
    shown = transform(Image.new("RGB", size, (255, 51, 0)))
    assert shown.shape == (3, 224, 224)
    assert shown.amin((1, 2)).tolist() == shown.amax((1, 2)).tolist()
    assert shown[:, 0, 0].numpy() == pytest.approx([1, 0.2, 0])


@pytest.mark.parametrize("turned", [False, True])
def test_the_centre_of_a_strip_stays_the_centre(turned: bool) -> None:
    """As torchvision has it, which resizes the whole strip."""
    transforms = pytest.importorskip("torchvision.transforms")
    length = 4 * _MOST_ASPECT
    pixels = np.zeros((2 * length, 2, 3), np.uint8)
    pixels[length - 1 : length + 1] = 255
    image = Image.fromarray(pixels.swapaxes(0, 1).copy() if turned else pixels)
    ours = ImagePreprocess(16, mean=(0.0,) * 3, std=(1.0,) * 3)(image)
    steps = [transforms.Resize(16), transforms.CenterCrop(16), transforms.ToTensor()]
    assert np.abs(ours - transforms.Compose(steps)(image)).max() < 1e-6


@pytest.mark.parametrize("mode", ["I", "F"])
def test_an_image_of_unknown_range_is_named(tmp_path: Path, mode: str) -> None:
    fill(tmp_path / "cat", "1.png")
    fill(tmp_path / "dog", "1.png")
    Image.new(mode, (6, 8), 3).save(tmp_path / "dog" / "2.tif")
    examples = load_task(f"imagefolder:{tmp_path}")["train"].examples
    assert examples[2].mode == mode  # a network of one's own may read it
    with pytest.raises(InvalidInputError, match=rf"image '.*dog/2.tif' has 32-bit.*'{mode}'"):
        ImagePreprocess(4).pixels(examples[2])


@pytest.mark.parametrize("white", [1023, 4095, 65535])
def test_a_pgm_of_more_than_eight_bits(white: int) -> None:
    """It says what is white, so that a dark image stays dark."""
    for pixels in ([[0, white // 2, white]], [[0, 3, white // 20]]):
        grey = np.array(pixels)
        data = b"P5 3 1 %d\n" % white + grey.astype(">u2").tobytes()
        found = np.asarray(to_mode(decode(data, "x"), "L")).astype(float)
        assert np.abs(found - grey * 255 / white).max() <= 1


def test_folders_whose_names_look_like_missing_labels(tmp_path: Path) -> None:
    names = ("-1", "-100", "01", "1", "1.0", "None", "nan")
    for name in names:
        fill(tmp_path / name, "1.png", "2.png")
    with pytest.warns(TransferMetricsWarning, match="notation of numbers: '01', '1', '1.0'"):
        task = load_task(f"imagefolder:{tmp_path}")
    assert task.classes == names
    assert [path.parent.name for path in task["train"].examples.paths] == [
        names[label] for label in task["train"].labels
    ]
    assert not task.understood.left_out


@pytest.mark.parametrize("names", [("images", "masks"), ("JPEGImages", "SegmentationClass")])
@pytest.mark.parametrize("split", ["", "train"])
def test_pictures_and_what_was_drawn_on_them_are_no_classes(tmp_path: Path, names, split) -> None:
    for name in names:
        fill(tmp_path / split / name, "1.png", "2.png")
    with pytest.raises(InvalidInputError, match="are no classes but pictures and what was drawn"):
        load_task(f"imagefolder:{tmp_path}")


@pytest.mark.parametrize("names", [("fold1", "fold2"), ("art", "photo"), ("train_a", "train_b")])
def test_classes_that_may_be_a_level_deeper_are_told(tmp_path: Path, names) -> None:
    for name in names:
        for inner in ("dog", "horse"):
            fill(tmp_path / name / inner, "1.png", "2.png")
    told = f"hold the same folders, such as dog, horse in '{names[0]}'; if these are the classes"
    with pytest.warns(TransferMetricsWarning, match=told):
        assert load_task(f"imagefolder:{tmp_path}").classes == names


def test_folders_of_other_names_within_classes_are_not_told(tmp_path: Path) -> None:
    for place in ("animal/cat", "animal/dog", "plant/rose", "plant/tulip"):
        fill(tmp_path / place, "1.png")
    assert load_task(f"imagefolder:{tmp_path}").classes == ("animal", "plant")

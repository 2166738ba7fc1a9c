"""Tasks from every source, and every way in which they can be wrong."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import transfer_metrics as tm
from transfer_metrics.errors import (
    InvalidInputError,
    TransferMetricsWarning,
    UnknownNameError,
    UnsupportedTaskError,
)
from transfer_metrics.features.batches import Batches
from transfer_metrics.sources.example import example_bytes
from transfer_metrics.sources.optional import require
from transfer_metrics.sources.specs import parse_task
from transfer_metrics.sources.tasks.labels import encode
from transfer_metrics.sources.tasks.load_task import list_tasks, load_task
from transfer_metrics.sources.tasks.sequences import ImageArray
from transfer_metrics.sources.tasks.task import Split, Task

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 9, 7, 3), np.uint8)
NUMBERS = RNG.normal(size=(6, 4))
Y = np.array([0, 1, 0, 1, 1, 0])


def jpeg(pixels: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", **options)
    return stream.getvalue()


# ---------------------------------------------------------------- by name


@pytest.mark.parametrize(
    ("name", "kind", "modality", "classes", "train"),
    [
        ("digits", "classification", "image", 10, 1347),
        ("iris", "classification", "tensor", 3, 112),
        ("wine", "classification", "tensor", 3, 133),
        ("breast_cancer", "classification", "tensor", 2, 426),
        ("diabetes", "regression", "tensor", 0, 331),
    ],
)
def test_sklearn(name: str, kind: str, modality: str, classes: int, train: int) -> None:
    task = load_task(f"sklearn:{name}")
    assert (task.kind, task.modality, task.num_classes) == (kind, modality, classes)
    assert len(task["train"]) == train
    again = load_task(f"sklearn:{name}")
    assert task["train"].fingerprint == again["train"].fingerprint != task["test"].fingerprint
    if classes:
        share = [np.bincount(task[s].labels) / len(task[s]) for s in ("train", "test")]
        assert np.allclose(*share, atol=0.04)


def test_digits_are_the_pixels_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    task = load_task("sklearn:digits")
    data = load_digits()
    theirs = {np.round(row * 255 / 16).astype(np.uint8).tobytes() for row in data.images}
    images = [image for split in task.splits.values() for image in split.examples]
    assert {image.mode for image in images} == {"L"}
    assert {image.tobytes() for image in images} == theirs
    assert len(images) == len(data.images)


def test_bundled_glyphs() -> None:
    task = load_task("zoo:glyphs")
    assert set(task.splits) == {"train", "test", "ood"}
    assert task.modality == "image"
    assert task["train"].examples[0].size == (32, 32)
    assert load_task("glyphs")["ood"].fingerprint == task["ood"].fingerprint


def test_listed_tasks_load() -> None:
    for name in list_tasks():
        assert load_task(name).name == name


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("digits", InvalidInputError, "sklearn:digits"),
        ("sklearn:digit", UnknownNameError, "digits"),
        ("sklearns:digits", UnknownNameError, "sklearn"),
        ("zoo:glyph", UnknownNameError, "glyphs"),
        ("npz:none.npz", InvalidInputError, "no file"),
        ("csv:none.csv", InvalidInputError, "no file"),
        ("imagefolder:none", InvalidInputError, "no folder"),
        ("csv:none.csv?labels=x", UnknownNameError, "'label'"),
        ("sklearn:iris?kind=regression", UnknownNameError, "option"),
    ],
)
def test_names_that_do_not_exist(spec: str, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        load_task(spec)


def test_a_question_mark_in_a_file_name_is_no_option(tmp_path: Path) -> None:
    path = tmp_path / "what?label=x"
    path.write_text("")
    assert parse_task(f"csv:{path}") == ("csv", str(path), {})
    assert parse_task("csv:a b.csv?text=a%26b&kind=regression") == (
        "csv",
        "a b.csv",
        {"text": "a&b", "kind": "regression"},
    )


# ---------------------------------------------------------------- image folders


def fill(folder: Path, count: int, shade: int = 0) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (8, 6), (shade, i, ord(folder.name[0]))).save(folder / f"{i}.png")


def test_imagefolder(tmp_path: Path) -> None:
    fill(tmp_path / "cats", 3, 10)
    fill(tmp_path / "bees" / "nested", 2, 20)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "cats" / ".hidden.png").write_bytes(b"x")
    (tmp_path / "cats" / "notes.txt").write_text("x")
    with pytest.warns(UserWarning, match=r"left out cats/notes\.txt \(no image\)$"):
        task = load_task(f"imagefolder:{tmp_path}")
    assert task.classes == ("bees", "cats")
    assert list(task.splits) == ["train"]
    assert task["train"].labels.tolist() == [0, 0, 1, 1, 1]
    assert task["train"].examples[-1].getpixel((0, 0)) == (10, 2, ord("c"))
    assert task["train"].examples[4].size == (8, 6)
    assert [e.size for e in task["train"].examples[1:3]] == [(8, 6)] * 2


def test_imagefolder_with_splits(tmp_path: Path) -> None:
    for shade, split in enumerate(("training", "validation", "ood")):
        fill(tmp_path / split / "10", 2, shade)
        fill(tmp_path / split / "9", 1, shade + 100)
    task = load_task(f"imagefolder:{tmp_path}")
    assert set(task.splits) == {"train", "val", "ood"}
    assert task.classes == ("10", "9")
    assert task["val"].labels.tolist() == [0, 0, 1]
    with pytest.raises(InvalidInputError, match="it has: ood, train, val"):
        task["test"]


def test_imagefolder_fingerprint_follows_the_bytes(tmp_path: Path) -> None:
    fill(tmp_path / "one" / "a", 2)
    fill(tmp_path / "one" / "b", 2)
    fill(tmp_path / "two" / "a", 2)
    fill(tmp_path / "two" / "b", 2)
    one, two = (load_task(f"imagefolder:{tmp_path / n}")["train"] for n in ("one", "two"))
    assert one.fingerprint == two.fingerprint
    Image.new("RGB", (8, 6), (1, 2, 3)).save(tmp_path / "two" / "b" / "1.png")
    changed = load_task(f"imagefolder:{tmp_path / 'two'}")["train"]
    assert changed.fingerprint != one.fingerprint


def test_photos_are_turned_upright(tmp_path: Path) -> None:
    fill(tmp_path / "b", 1)
    (tmp_path / "a").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    (tmp_path / "a" / "0.jpg").write_bytes(jpeg(PIXELS[0], exif=exif))
    assert load_task(f"imagefolder:{tmp_path}")["train"].examples[0].size == (9, 7)


def test_one_class_and_empty_class(tmp_path: Path) -> None:
    fill(tmp_path / "a", 1)
    with pytest.raises(InvalidInputError, match="1 class folders"):
        load_task(f"imagefolder:{tmp_path}")
    (tmp_path / "b").mkdir()
    with pytest.raises(InvalidInputError, match="1 class folders with images"):
        load_task(f"imagefolder:{tmp_path}")
    fill(tmp_path / "c", 1)
    with pytest.warns(UserWarning, match=r"left out b \(no image in it\)$"):
        assert load_task(f"imagefolder:{tmp_path}").classes == ("a", "c")


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_image_that_does_not_decode_is_named(tmp_path: Path, damage: str) -> None:
    fill(tmp_path / "a", 1)
    fill(tmp_path / "b", 1)
    content = {"truncated": jpeg(PIXELS[0])[:200], "text": b"hello", "empty": b""}[damage]
    file = tmp_path / "b" / "1.jpg"
    file.write_bytes(jpeg(PIXELS[0]))
    split = load_task(f"imagefolder:{tmp_path}")["train"]
    file.write_bytes(content)  # after it was looked at
    assert split.examples[1].size == (8, 6)
    with pytest.raises(InvalidInputError, match=r"1\.jpg.*does not decode"):
        split.examples[2]


def test_decompression_bomb(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b""))
    )
    fill(tmp_path / "b", 1)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    with pytest.raises(InvalidInputError, match="pixels"):
        load_task(f"imagefolder:{tmp_path}")["train"].examples[0]


def test_image_that_vanished(tmp_path: Path) -> None:
    fill(tmp_path / "a", 1)
    fill(tmp_path / "b", 1)
    split = load_task(f"imagefolder:{tmp_path}")["train"]
    (tmp_path / "a" / "0.png").unlink()
    with pytest.raises(InvalidInputError, match="cannot be read"):
        split.examples[0]


# ---------------------------------------------------------------- npz


def save(path: Path, **arrays) -> str:
    np.savez(path / "data.npz", **arrays)
    return f"npz:{path / 'data.npz'}"


def test_npz_of_numbers(tmp_path: Path) -> None:
    task = load_task(save(tmp_path, X=NUMBERS, y=Y + 5))
    assert (task.kind, task.modality, task.classes) == ("classification", "tensor", ("5", "6"))
    assert np.array_equal(np.stack(task["train"].examples), NUMBERS.astype(np.float32))


def test_npz_encodings_hold_the_same_images(tmp_path: Path) -> None:
    files = [jpeg(p) for p in PIXELS]
    offsets = np.cumsum([0, *map(len, files)])
    data = np.frombuffer(b"".join(files), np.uint8)
    arrays = {"jpeg_train": data, "offsets_train": offsets, "y_train": Y}
    arrays |= {"x_test": PIXELS, "y_test": Y, "classes": np.array(["no", "yes"])}
    task = load_task(save(tmp_path, **arrays))
    assert task.modality == "image"
    assert task.classes == ("no", "yes")
    assert np.array_equal(np.asarray(task["test"].examples[2]), PIXELS[2])
    decoded = np.asarray(Image.open(io.BytesIO(files[2])))
    assert np.array_equal(np.asarray(task["train"].examples[2]), decoded)


@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 5, 4, 1), (6, 5, 4, 3)])
def test_npz_uint8_images(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = RNG.integers(0, 256, shape, np.uint8)
    task = load_task(save(tmp_path, x=pixels, y=Y))
    assert task.modality == "image"
    assert task["train"].examples[0].mode == ("RGB" if shape[-1] == 3 else "L")


def test_npz_uint8_rows_are_numbers(tmp_path: Path) -> None:
    task = load_task(save(tmp_path, X=RNG.integers(0, 256, (6, 5), np.uint8), y=Y))
    assert task.modality == "tensor"
    assert task["train"].examples[0].dtype == np.float32


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": NUMBERS}, "no y"),
        ({"y": Y}, "it needs X"),
        ({"jpeg": np.zeros(4, np.uint8), "y": Y}, "no offsets"),
        ({"X": NUMBERS[:5], "y": Y}, "5 examples but 6 labels"),
        ({"X": NUMBERS, "y": Y * 0}, "one class"),
        ({"X": NUMBERS[:0], "y": Y[:0]}, "no examples"),
        ({"X": NUMBERS, "y": np.array([0, 1, np.nan, 1, 0, 1])}, "missing.*example 2"),
        ({"X": np.where(np.arange(6)[:, None] == 3, np.nan, NUMBERS), "y": Y}, "row 3"),
        ({"X": NUMBERS * 1e300, "y": Y}, "row 0"),
        ({"X": NUMBERS.astype(complex), "y": Y}, "complex"),
        ({"X": PIXELS[..., :2], "y": Y}, "last axis"),
        ({"X": PIXELS[:, :3], "y": Y}, r"\(3, 7, 3\) have channels first or last; give a list"),
        ({"X": PIXELS[:, :0], "y": Y}, r"\(6, 0, 7, 3\) have no pixels"),
        ({"X": PIXELS[:, :, :0, 0], "y": Y}, r"\(6, 9, 0\) have no pixels"),
        ({"X": NUMBERS[:, :0], "y": Y}, r"examples of shape \(0,\) hold no numbers"),
        ({"X": NUMBERS.reshape(6, 1, 2, 2)[:, :, :0], "y": Y}, r"\(1, 0, 2\) hold no numbers"),
        ({"X": NUMBERS, "y": np.eye(6, dtype=int)}, "one class per example"),
        ({"X": NUMBERS, "y": Y, "classes": np.array(["a"])}, "neither numbers"),
        ({"x_test": NUMBERS, "y_test": Y}, "no split 'train'"),
        ({"X": NUMBERS, "y": np.array([{}] * 6, object)}, "object"),
        (
            {"jpeg": np.zeros(4, np.uint8), "offsets": np.array([0, 9]), "y": np.array([0])},
            "offsets",
        ),
    ],
)
def test_npz_that_cannot_be_used(tmp_path: Path, arrays: dict, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        load_task(save(tmp_path, **arrays), missing="error")


def test_npz_that_is_something_else(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 not an archive")
    np.save(tmp_path / "b.npy", NUMBERS)
    for name in ("a.npz", "b.npy"):
        with pytest.raises(InvalidInputError, match="no npz archive"):
            load_task(f"npz:{tmp_path / name}")


# ---------------------------------------------------------------- tables


def table(path: Path, text: str, name: str = "t.csv") -> str:
    (path / name).write_text(text)
    return f"csv:{path / name}"


def test_csv_of_text(tmp_path: Path) -> None:
    spec = table(
        tmp_path,
        "split,label,label_name,text\n"
        'train,1,good,"nice, really"\ntrain,0,bad,null\ntest,1,good,ok\nvalidation,0,bad,NA\n',
    )
    task = load_task(spec)
    assert (task.modality, task.classes) == ("text", ("bad", "good"))
    assert list(task["train"].examples) == ["nice, really", "null"]
    assert task["train"].labels.tolist() == [1, 0]
    assert set(task.splits) == {"train", "test", "val"}


def test_csv_of_pairs(tmp_path: Path) -> None:
    text = "sentence1\tsentence2\tlabel\na\tb\tyes\nc\td\tno\n"
    task = load_task(table(tmp_path, text, "t.tsv"))
    assert list(task["train"].examples) == [("a", "b"), ("c", "d")]
    assert task.classes == ("no", "yes")
    chosen = load_task(table(tmp_path, text, "t.tsv") + "?text=sentence2&label=sentence1")
    assert list(chosen["train"].examples) == ["b", "d"]


def test_csv_of_numbers(tmp_path: Path) -> None:
    spec = table(tmp_path, "a,b,species\n1,2,x\n3,4.5,y\n5,6,x\n")
    task = load_task(spec)
    assert np.array_equal(np.stack(task["train"].examples), [[1, 2], [3, 4.5], [5, 6]])
    assert task.classes == ("x", "y")
    only = load_task(spec + "?features=b")
    assert only["train"].examples[1].tolist() == [4.5]
    target = load_task(spec + "?label=b&features=a&kind=regression")
    assert target.kind == "regression"
    assert target["train"].labels.tolist() == [2, 4.5, 6]
    by_keyword = load_task(spec, label="b", features="a", kind="regression")
    assert by_keyword["train"].fingerprint == target["train"].fingerprint


@pytest.mark.parametrize(
    ("text", "query", "message"),
    [
        ("a,label\n1,x\n2,y\n", "?label=lable", "no column 'lable'; the columns are: a, label"),
        ("a,label\n1,x\n2,y\n", "?features=b", "no column 'b'"),
        ("a,b,label\n1,u,x\n2,v,y\n", "", "columns b hold words"),
        ("a,label\n1,x\n,y\n", "", "row 2 has nothing in column 'a'"),
        ("a,label\n1,x\nnan,y\n", "", "row 2 has 'nan' in column 'a'.*fill it"),
        ("a,b,label\n1,2,x\n1_1,3,y\n", "", "columns a hold words"),
        ("a,label\n1,x\n2,\n", "?missing=error", "1 labels are missing in column 'label'"),
        ("a,label\n1,x\n2,x\n", "", "one class"),
        ("a,label\n1,x\n2,y\n", "?kind=regression", "regression needs numbers"),
        ("a,label\n1,3\n2,3\n", "?kind=regression", "all labels are equal"),
        ("a,label\n1,x\n2,y\n", "?kind=ranking", "kind 'ranking'"),
        ("a,label\n", "", "no rows"),
        ("", "", "cannot be read"),
        ("label\nx\ny\n", "", "no columns besides"),
        ("a,label\nu,x\nv,y\n", "?text=label", "'label' is the label, and models would read it"),
        ("a,label\n1,3\n2,4\n", "?features=a,label", "'label' is the label, and models"),
        ("a,b\n1,3\n2,4\n", "?label=a,b&features=b", "'b' is the label, and models"),
        ("a,label\nu v,x\nw,y\n", "?words=label", "'label' is the label, and models"),
        ("a,label\nu.png,x.png\nv.png,y.png\n", "?image=label", "'label' is the label, and"),
    ],
)
def test_csv_that_cannot_be_used(tmp_path: Path, text: str, query: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        load_task(table(tmp_path, text) + query)


@pytest.mark.parametrize(
    ("labels", "query", "message"),
    [
        ("x,NA,", "", "one class.*left out: 2 of 3 train examples .no label .*'label'.; say miss"),
        ("3,,3", "?kind=regression", r"are equal.*left out: 1 of 3 train examples .*'label'\)$"),
        ("x,x,", "?missing=keep", r"one class.*left out: 1 of 3 train examples .*'label'\)$"),
    ],
)
def test_one_class_is_told_with_what_was_left_out(tmp_path: Path, labels, query, message) -> None:
    text = "".join(f"{row},{label}\n" for row, label in enumerate(labels.split(",")))
    spec = table(tmp_path, f"a,label\n{text}") + query
    with (
        pytest.warns(TransferMetricsWarning, match="left out . of 3 examples"),
        pytest.raises(InvalidInputError, match=message),
    ):
        load_task(spec)


# ---------------------------------------------------------------- datasets library


def test_hub_text(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    rows = {"sentence": ["a", "b", "c"], "label": [0, 1, 1]}
    others = {"sentence": ["e", "f", "g"], "label": [0, 1, 1]}
    hidden = {"sentence": ["d"], "label": [-1]}
    datasets.DatasetDict(
        train=datasets.Dataset.from_dict(rows, features=features),
        validation=datasets.Dataset.from_dict(others, features=features),
        test=datasets.Dataset.from_dict(hidden, features=features),
    ).save_to_disk(tmp_path / "saved")
    with pytest.warns(UserWarning, match="no labels"):
        task = load_task(f"hf:{tmp_path / 'saved'}")
    assert set(task.splits) == {"train", "val"}
    assert task.classes == ("neg", "pos")
    assert list(task["train"].examples) == ["a", "b", "c"]
    with pytest.raises(InvalidInputError, match="no column 'x'"):
        load_task(f"hf:{tmp_path / 'saved'}?label=x")


def test_hub_images(tmp_path: Path) -> None:
    import datasets

    data = datasets.Dataset.from_dict(
        {
            "image": [Image.fromarray(p) for p in PIXELS[:4]],
            "labels": ["x", "y", "x", "y"],
        },
        features=datasets.Features({"image": datasets.Image(), "labels": datasets.Value("string")}),
    )
    data.save_to_disk(tmp_path / "saved")
    task = load_task(f"hf:{tmp_path / 'saved'}")
    assert (task.modality, task.classes) == ("image", ("x", "y"))
    assert np.array_equal(np.asarray(task["train"].examples[3]), PIXELS[3])
    again = load_task(f"hf:{tmp_path / 'saved'}")
    assert task["train"].fingerprint == again["train"].fingerprint


def test_hub_numbers_and_pairs(tmp_path: Path) -> None:
    import datasets

    numbers = {"a": [1.0, 2.0], "b": [[3.0, 4.0], [5.0, 6.0]], "label": [7, 9]}
    datasets.Dataset.from_dict(numbers).save_to_disk(tmp_path / "numbers")
    task = load_task(f"hf:{tmp_path / 'numbers'}")
    assert np.stack(task["train"].examples).tolist() == [[1, 3, 4], [2, 5, 6]]
    assert task.classes == ("7", "9")
    pairs = {"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [0, 1]}
    datasets.Dataset.from_dict(pairs).save_to_disk(tmp_path / "pairs")
    assert load_task(f"hf:{tmp_path / 'pairs'}")["train"].examples[0] == ("a", "c")


def test_hub_name_that_cannot_be_had() -> None:
    with pytest.raises(InvalidInputError, match="save_to_disk"):
        load_task("hf:nobody/no-such-data")


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize(
    "examples",
    [NUMBERS, torch.tensor(NUMBERS), NUMBERS.tolist(), list(NUMBERS), list(torch.tensor(NUMBERS))],
)
def test_arrays_and_labels(examples) -> None:
    task = load_task(examples, Y.tolist())
    assert task.modality == "tensor"
    assert np.array_equal(np.stack(task["train"].examples), NUMBERS.astype(np.float32))
    pair = load_task((examples, Y))
    assert pair["train"].fingerprint == task["train"].fingerprint


def test_lists_of_images_and_texts() -> None:
    images = [Image.fromarray(p) for p in PIXELS]
    assert load_task(images, Y).modality == "image"
    assert load_task(PIXELS, Y).modality == "image"
    assert load_task(list(PIXELS), Y).modality == "image"
    assert load_task(list("abcdef"), Y).modality == "text"
    assert load_task(np.array(list("abcdef")), Y).modality == "text"
    assert load_task([("a", c) for c in "bcdefg"], Y)["train"].examples[0] == ("a", "b")
    with pytest.raises(InvalidInputError, match="mixes"):
        load_task([*images[:5], "word"], Y)
    with pytest.raises(InvalidInputError, match="differ in shape"):
        load_task([[1, 2], [3]], [0, 1])


def test_data_frame() -> None:
    import pandas as pd

    frame = pd.DataFrame({"a": [1, 2, 3], "b": [4.0, 5.0, 6.0]})
    task = load_task(frame, pd.Series(["x", "y", "x"]))
    assert task.classes == ("x", "y")


def test_several_splits_share_their_classes() -> None:
    parts = {"train": (NUMBERS, list("bcbccb")), "validation": (-NUMBERS[:2], ["a", "c"])}
    with pytest.warns(UserWarning, match="split 'val' has the class 'a', of which 'train' has no"):
        task = load_task(parts)
    assert task.classes == ("a", "b", "c")
    assert task["train"].labels.tolist() == [1, 2, 1, 2, 2, 1]
    assert task["val"].labels.tolist() == [0, 2]
    assert load_task(task) is task
    assert load_task(task, name="other").name == "other"


class Pictures(Dataset):
    classes = ("down", "up")
    fetched = 0

    def __init__(self, targets=None) -> None:
        if targets is not None:
            self.targets = targets

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, index: int):
        Pictures.fetched += 1
        return Image.fromarray(PIXELS[index]), int(Y[index])


def test_torch_datasets() -> None:
    task = load_task(Pictures())
    assert (task.modality, task.classes) == ("image", ("down", "up"))
    assert task["train"].labels.tolist() == Y.tolist()
    Pictures.fetched = 0
    assert load_task(Pictures(Y.tolist()))["train"].labels.tolist() == Y.tolist()
    assert Pictures.fetched == len(Y) + 2 * len(Y)  # that they are the same when read again
    tensors = TensorDataset(torch.tensor(NUMBERS), torch.tensor(Y))
    with pytest.warns(TransferMetricsWarning, match="6 of 6 examples of split 'test' are in"):
        assert load_task({"train": tensors, "test": tensors})["test"].examples[0].shape == (4,)
    pixels = torch.tensor(PIXELS).permute(0, 3, 1, 2)
    image = load_task(TensorDataset(pixels, torch.tensor(Y)))["train"].examples[1]
    assert np.array_equal(np.asarray(image), PIXELS[1])


class Zipped(Dataset):
    def __init__(self, *columns) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index):
        return tuple(column[index] for column in self.columns)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("of", [np.asarray, torch.tensor], ids=["array", "tensor"])
def test_pixels_with_channels_first_have_the_features_of_channels_last(channels, of, tmp_path):
    last = PIXELS[..., :channels]
    first = of(np.ascontiguousarray(last.transpose(0, 3, 1, 2)))
    model = tm.load_model("zoo:resnet-cifar10")
    expected = tm.extract(model, load_task(last, Y))
    given = {
        "whole": (first, Y),
        "listed": ([*first], Y),
        "data set": Zipped(first, Y),
        "npz": save(tmp_path, X=np.asarray(first), y=Y),
    }
    for name, data in given.items():
        task = load_task(data)
        assert task.modality == "image", name
        found = tm.extract(model, task)
        np.testing.assert_array_equal(found[found.names[-1]], expected[found.names[-1]])


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


def test_things_that_are_no_tasks() -> None:
    triples = TensorDataset(torch.tensor(NUMBERS), torch.tensor(Y), torch.tensor(Y))
    for wrong, message in [
        (3, "an int has no length"),
        (triples, "pairs"),
        ((NUMBERS, Y, Y), "3 items"),
        ((NUMBERS, 3), "one per example"),
        ({}, "no split 'train'"),
        ({"test": (NUMBERS, Y)}, "no split 'train'"),
        ({"train": (NUMBERS, Y), "test": (list("abcdef"), Y)}, "different kinds"),
        (
            {"train": (NUMBERS, Y), "test": (NUMBERS[:5, :3], Y[:5])},
            r"rows of different lengths: train \(6, 4\), test \(5, 3\); give",
        ),
        (
            {"train": (NUMBERS, Y), "val": (NUMBERS, Y), "test": (NUMBERS[:, 0], Y)},
            r"train \(6, 4\), val \(6, 4\), test \(6, 1\)",
        ),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            load_task(wrong)
    with pytest.raises(UnsupportedTaskError, match="first=10000"):
        load_task(Stream())
    with pytest.raises(InvalidInputError, match="labels of its own"):
        load_task("sklearn:iris", Y)
    with pytest.raises(InvalidInputError, match="by name only"):
        load_task(NUMBERS, Y, label="x")


def test_splits_have_as_many_targets() -> None:
    with pytest.raises(InvalidInputError, match=r"targets: train \(6, 4\), test \(6, 2\); every"):
        load_task({"train": (NUMBERS, NUMBERS), "test": (NUMBERS, NUMBERS[:, :2])})


def test_token_ids_of_each_split_may_have_a_length_of_their_own() -> None:
    ids = np.arange(24).reshape(6, 4)
    task = load_task({"train": (ids, Y), "test": (ids[:, :3], Y)})
    assert [len(task[split].examples[0]) for split in ("train", "test")] == [4, 3]


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("labels", "numbers", "classes"),
    [
        ([10, -3, 10], [1, 0, 1], ("-3", "10")),
        (["b", "a", "b"], [1, 0, 1], ("a", "b")),
        ([True, False, True], [1, 0, 1], ("False", "True")),
        ([2.0, 1.0, 2.0], [1, 0, 1], ("1", "2")),
        ([10, "a", 9], [1, 2, 0], ("9", "10", "a")),
        ([b"y", b"x", b"y"], [1, 0, 1], ("x", "y")),
        (np.array([[4], [2], [4]]), [1, 0, 1], ("2", "4")),
        (torch.tensor([4, 2, 4]), [1, 0, 1], ("2", "4")),
    ],
)
def test_labels_of_any_kind(labels, numbers, classes) -> None:
    found, encoded, names = encode({"train": labels})
    assert (found, names) == ("classification", classes)
    assert encoded["train"].tolist() == numbers
    assert encoded["train"].dtype == np.int64


@given(st.lists(st.one_of(st.integers(-99, 99), st.text(max_size=3)), min_size=2, max_size=30))
def test_encoding_keeps_equality_and_order(labels: list) -> None:
    # 0 and "0" would be two classes of one name, which is refused.
    if len(set(labels)) < 2 or len({str(label) for label in labels}) < len(set(labels)):
        return
    encoded = encode({"train": labels})[1]["train"]
    for i, a in enumerate(labels):
        for j, b in enumerate(labels):
            assert (a == b) == (encoded[i] == encoded[j])
            if type(a) is type(b):
                assert (a < b) == (encoded[i] < encoded[j])
    assert sorted(set(encoded.tolist())) == list(range(len(set(labels))))


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([0.5, 1.5, 2.0], "regression"),
        (np.arange(30.0), "classification"),
        (np.arange(30), "classification"),
        (np.arange(900.0) % 30, "classification"),
        (np.array([[0.0, 1], [1, 2], [2, 3]]), "regression"),
    ],
)
def test_kind_of_the_labels(labels, kind: str) -> None:
    assert encode({"train": labels})[0] == kind


def test_several_targets() -> None:
    targets = RNG.normal(size=(6, 2))
    task = load_task(NUMBERS, targets)
    assert task.kind == "regression"
    assert task["train"].labels.shape == (6, 2)
    assert task.num_classes == 0


@pytest.mark.parametrize("missing", [None, float("nan"), "", -100])
def test_missing_labels(missing) -> None:
    with pytest.raises(InvalidInputError, match=r"1 labels are missing.*example 1"):
        load_task(list("xyz"), ["a", missing, "b"], missing="error")


def test_unhashable_labels() -> None:
    with pytest.raises(InvalidInputError, match="hashable"):
        encode({"train": [{"a": 1}, {"b": 2}]}, "classification")


# ---------------------------------------------------------------- splits


def test_fingerprint_is_that_of_the_content() -> None:
    split = load_task(NUMBERS, Y)["train"]
    assert split.fingerprint == load_task(NUMBERS.tolist(), Y.tolist())["train"].fingerprint
    order = np.array([1, 0, 2, 3, 4, 5])
    assert split.fingerprint != load_task(NUMBERS[order], Y[order])["train"].fingerprint
    assert split.fingerprint != load_task(NUMBERS, Y[order])["train"].fingerprint
    words = [load_task(x, [0, 1])["train"].fingerprint for x in (["ab", "c"], ["a", "bc"])]
    assert words[0] != words[1]


def test_split_and_task_check_themselves() -> None:
    with pytest.raises(InvalidInputError, match="2 examples but 1 labels"):
        Split(["a", "b"], np.array([0]))
    with pytest.raises(InvalidInputError, match="no examples"):
        Split([], np.array([]))
    with pytest.raises(InvalidInputError, match="no split 'train'"):
        Task("t", "classification", "text", {"test": Split(["a"], np.array([0]))})


@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 5, 4, 1), (3, 5, 4, 3)])
def test_images_of_an_array_contain_what_each_does_as_an_image(shape):
    images = ImageArray(np.random.default_rng(0).integers(0, 256, shape, np.uint8)[:, :, ::-1])
    assert [*images.each()] == [example_bytes(images[i]) for i in range(3)]


# ---------------------------------------------------------------- images as floats


class Mapped(Dataset):
    """Images as another function gives them."""

    def __init__(self, change) -> None:
        self.change = change

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, index: int):
        return self.change(torch.from_numpy(PIXELS[index])), int(Y[index])


UNIT = PIXELS.astype(np.float32) / 255


@pytest.mark.parametrize(
    "given",
    [
        Mapped(lambda x: x.permute(2, 0, 1).float() / 255),
        Mapped(lambda x: x.permute(2, 0, 1).float()),
        Mapped(lambda x: x.permute(2, 0, 1).double() / 255),
        (UNIT, Y),
        (UNIT.transpose(0, 3, 1, 2), Y),
        (torch.from_numpy(UNIT.transpose(0, 3, 1, 2).copy()), Y),
        (PIXELS.astype(np.int64), Y),
    ],
    ids=["ToTensor", "0..255", "double", "NHWC", "NCHW", "tensor", "integers"],
)
def test_floats_of_pixels_are_fed_as_the_images_that_they_were(given):
    model = tm.load_model("zoo:resnet-cifar10")
    expected = model.batch([Image.fromarray(pixels) for pixels in PIXELS])
    task = load_task(given)
    assert "images (floats of 0 to" in task.summary
    assert torch.equal(model.batch(list(task["train"].examples)), expected)
    rows = task["train"].rows(np.array([4, 1])).examples
    assert torch.equal(model.batch(list(rows)), expected[[4, 1]])


def test_floats_of_one_channel_are_grey_images():
    grey = PIXELS[..., 0]
    model = tm.load_model("zoo:resnet-cifar10")
    task = load_task((grey[:, None].astype(np.float32) / 255, Y))
    expected = model.batch([Image.fromarray(pixels) for pixels in grey])
    assert torch.equal(model.batch(list(task["train"].examples)), expected)


def test_a_network_without_preprocessing_takes_floats_as_they_are():
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten())
    model = tm.load_model(module)
    task = load_task((UNIT.transpose(0, 3, 1, 2), Y))
    batch = model.batch(list(task["train"].examples))
    np.testing.assert_array_equal(batch, UNIT.transpose(0, 3, 1, 2))


def test_normalised_floats_are_taken_as_they_are_with_a_warning_of_the_size():
    model, ready = tm.load_model("zoo:resnet-cifar10"), UNIT.transpose(0, 3, 1, 2) * 4 - 2
    task = load_task((ready, Y))
    with pytest.warns(TransferMetricsWarning, match=r"normalised.*\(3, 9, 7\) where it expects"):
        batch = Batches(model, task["train"].examples).load(range(6))
    np.testing.assert_array_equal(batch, ready)


@pytest.mark.parametrize(
    ("values", "told"),
    [(UNIT * 16, "white is not known"), (UNIT * 4 - 2, "channels last"), (UNIT * 9e4, "white")],
)
def test_floats_whose_scale_or_axes_are_not_known_name_the_cure(values, told):
    model = tm.load_model("zoo:resnet-cifar10")
    with pytest.raises(InvalidInputError, match=told):
        Batches(model, load_task((values, Y))["train"].examples)


def test_an_example_out_of_the_range_of_the_others_is_refused():
    task = load_task(Mapped(lambda x: x.permute(2, 0, 1).float() / 255))
    assert "floats of 0 to 1" in task.summary
    task["train"].examples.items.change = lambda x: x.permute(2, 0, 1).float() / 50 - 2
    model = tm.load_model("zoo:resnet-cifar10")
    with pytest.raises(InvalidInputError, match="one range"):
        model.batch([task["train"].examples[0]])


def test_images_of_two_ranges_in_one_list_are_refused_and_dark_ones_are_not():
    model = tm.load_model("zoo:resnet-cifar10")
    whole = PIXELS.astype(np.float32)
    task = load_task(([UNIT[0], *whole[1:]], Y))
    with pytest.raises(InvalidInputError, match="as if 1 were white"):
        model.batch([task["train"].examples[0]])
    dark = whole.copy()
    dark[0], dark[1] = dark[0] > 127, 0.25
    expected = model.batch([Image.fromarray(np.rint(one).astype(np.uint8)) for one in dark])
    assert torch.equal(model.batch(list(load_task((dark, Y))["train"].examples)), expected)


def test_splits_in_different_ranges_are_refused():
    with pytest.raises(InvalidInputError, match="different ranges"):
        load_task({"train": (UNIT, Y), "test": (UNIT * 4 - 2, Y)})


def test_a_head_reads_floats_and_images_alike():
    head = tm.LinearProbe(progress=False).fit("zoo:resnet-cifar10", load_task((UNIT, Y)))
    images = [Image.fromarray(pixels) for pixels in PIXELS]
    expected = head.predict_proba(images)
    np.testing.assert_allclose(head.predict_proba(UNIT), expected, rtol=1e-6)
    same = tm.LinearProbe(progress=False).fit("zoo:resnet-cifar10", load_task((images, Y)))
    np.testing.assert_allclose(same.predict_proba(images), expected, rtol=1e-6)


# ---------------------------------------------------------------- empty texts


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "memory"])
def test_empty_texts_are_counted_and_can_be_left_out(tmp_path: Path, kind: str) -> None:
    given = {"text": ["good", "", "bad", " \t", "fine", "\u00a0"], "label": list("xyxyyy")}
    frame, file = pd.DataFrame(given), tmp_path / f"t.{kind}"
    if kind == "csv":
        frame.to_csv(file, index=False)
    elif kind == "jsonl":
        frame.to_json(file, orient="records", lines=True)
    elif kind == "parquet":
        frame.to_parquet(file)
    source = tuple(given.values()) if kind == "memory" else str(file)
    with pytest.warns(TransferMetricsWarning, match="3 of 6 texts of split 'train' are empty, the"):
        assert len(load_task(source)["train"]) == 6
    with pytest.warns(TransferMetricsWarning, match="left out 3 of 6.*example 1 is an empty text"):
        task = load_task(source, corrupt="skip")
    assert list(task["train"].examples) == ["good", "bad", "fine"]
    assert task["train"].labels.tolist() == [0, 0, 1]
    assert "3 examples of train (they are empty)" in task.summary


def test_pairs_of_texts_are_empty_where_both_are() -> None:
    pairs = [("a", ""), ("", ""), ("b", "c"), ("d", "e")]
    with pytest.warns(TransferMetricsWarning, match="1 of 4 texts of split 'train' are empty"):
        load_task((pairs, ["x", "y", "y", "x"]))


@pytest.mark.parametrize("dtype", ["uint8", "uint64", "int32", "bool"])
def test_labels_of_a_split_made_by_hand(dtype: str) -> None:
    split = Split(list("abcd"), np.array([0, 1, 0, 1]).astype(dtype))
    task = Task("t", "classification", "text", {"train": split}, ("x", "y"))
    assert "2 classes: x ×2, y ×2" in repr(task)
    assert split.labels.dtype == np.int64
    assert len(tm.subsample(task, 2)["train"]) == 2


@pytest.mark.parametrize("form", ["torch", "numpy", "pandas", "arrow", "custom", "one column"])
def test_data_sets_with_a_format_are_read_as_they_are_stored(form: str) -> None:
    import datasets

    data = datasets.Dataset.from_dict({"text": ["a b", "c", "d", "e"], "label": ["x", "y"] * 2})
    if form == "custom":
        changed = data.with_transform(lambda rows: {"input_ids": [[1]] * len(rows["text"])})
        with pytest.warns(
            TransferMetricsWarning, match="the transform of split 'train' is not used"
        ):
            task = load_task(changed)
    elif form == "one column":
        task = load_task(data.with_format("numpy", columns=["label"]))
    else:
        task = load_task(data.with_format(form))
    assert list(task["train"].examples) == ["a b", "c", "d", "e"]
    assert task["train"].labels.tolist() == [0, 1, 0, 1]


def test_columns_of_data_sets_that_are_not_read_are_told() -> None:
    import datasets

    sound = [{"array": [0.0, 1.0], "sampling_rate": 8}] * 4
    data = datasets.Dataset.from_dict({"audio": sound, "label": ["x", "y"] * 2})
    with pytest.raises(InvalidInputError, match="no column of images, text or numbers"):
        load_task(data)
    several = datasets.Sequence(datasets.ClassLabel(names=["x", "y"]))
    features = datasets.Features({"text": datasets.Value("string"), "labels": several})
    rows = {"text": ["a", "b", "c"], "labels": [[0], [0, 1], [1]]}
    with pytest.raises(InvalidInputError, match="MultiLabelBinarizer"):
        load_task(datasets.Dataset.from_dict(rows, features=features))


# ---------------------------------------------------------------- containers as people have them


def test_columns_of_text_in_any_container() -> None:
    words = ["a b", "c", "d", "e", "f", "g"]
    for form in (pd.DataFrame({"t": words}), pd.Series(words), words, np.array(words)):
        assert list(load_task(form, Y)["train"].examples) == words
    for gap in (None, np.nan, pd.NA):
        for place in (0, 3):
            given = [*words[:place], gap, *words[place + 1 :]]
            with pytest.warns(TransferMetricsWarning, match=f"1 of 6 texts .* example {place}"):
                task = load_task(given if gap is not pd.NA else pd.Series(given, dtype="string"), Y)
            assert list(task["train"].examples) == [*words[:place], "", *words[place + 1 :]]


def test_frames_and_tables_of_numbers() -> None:
    import pyarrow as pa

    truth = NUMBERS.astype(np.float32)
    frame = pd.DataFrame(NUMBERS, columns=list("abcd"))
    for form in (frame.convert_dtypes(), pa.table(frame), torch.tensor(truth)):
        assert np.array_equal(np.stack(load_task(form, Y)["train"].examples), truth)
    brief = torch.tensor(NUMBERS).bfloat16()
    assert np.array_equal(np.stack(load_task(brief, Y)["train"].examples), brief.float().numpy())
    with pytest.raises(InvalidInputError, match="column 'e' of row 0 holds 'x'"):
        load_task(frame.assign(e="x"), Y)


def test_splits_with_columns_in_another_order_are_refused() -> None:
    frame = pd.DataFrame(NUMBERS, columns=list("abcd"))
    for other in (frame[list("acbd")], frame.rename(columns={"b": "x"}), frame[list("abc")]):
        with pytest.raises(InvalidInputError, match=r"give both the same, such as by test\[train"):
            load_task({"train": (frame, Y), "test": (other, Y)})
    load_task({"train": (frame, Y), "test": (frame + 1, Y)})


def test_lists_of_paths_are_images(tmp_path: Path, monkeypatch) -> None:
    for number, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    names = [f"{number}.png" for number in range(6)]
    for form in (names, [*map(Path, names)], pd.Series(names), tuple(names)):
        found = load_task(form, Y)["train"].examples
        assert all(np.array_equal(np.asarray(x), p) for x, p in zip(found, PIXELS, strict=True))
    with pytest.raises(InvalidInputError, match=r"no file 'x/0\.png', seen from"):
        load_task([f"x/{name}" for name in names], Y)
    with pytest.raises(InvalidInputError, match=r"names of files, such as '0\.png', but for 'no p"):
        load_task([*names[:5], "no path"], Y)


def test_arrays_of_images_of_several_sizes() -> None:
    pictures = [pixels[:, : 5 + i % 3] for i, pixels in enumerate(PIXELS)]
    channels_first = [torch.tensor(pixels).permute(2, 0, 1) for pixels in pictures]
    for form in (pictures, channels_first):
        found = load_task(form, Y)["train"].examples
        assert all(np.array_equal(np.asarray(x), p) for x, p in zip(found, pictures, strict=True))


class Augmented(Pictures):
    def __getitem__(self, index: int):
        image, label = super().__getitem__(index)
        turned = torch.rand(()) < 0.5
        return (image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if turned else image), label


def test_augmentation_that_was_left_on_is_told() -> None:
    torch.manual_seed(0)
    with pytest.warns(TransferMetricsWarning, match="another one each time it is read"):
        load_task(Augmented())


@pytest.mark.parametrize(
    ("labels", "told"), [([0, 1, 2, -1], "-1 beside 0 to 2"), ([0, 1, 255], "255 beside 0 to 1")]
)
def test_numbers_that_often_stand_for_no_class_are_doubted(labels: list[int], told: str) -> None:
    for form in (labels * 6, [str(label) for label in labels * 6], np.float32(labels * 6)):
        with pytest.warns(TransferMetricsWarning, match=told):
            load_task(np.eye(len(labels) * 6), form)


def test_what_is_given_in_place_of_labels_or_data_is_told() -> None:
    frame = pd.DataFrame(NUMBERS).assign(label=Y)
    with pytest.raises(InvalidInputError, match=r"labels are the text 'label'.*frame\['label'\]"):
        load_task(frame, "label")
    with pytest.raises(InvalidInputError, match=r"loader\.dataset"):
        load_task(torch.utils.data.DataLoader(Pictures()))


def test_arrays_whose_names_differ_by_case_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=NUMBERS, y=Y, Y=1 - Y)
    with pytest.raises(InvalidInputError, match="X, y, Y, of which some differ by case"):
        load_task(f"npz:{tmp_path / 'a.npz'}")


def test_two_splits_of_one_name_are_refused(tmp_path: Path) -> None:
    """Or the second would stand in for the first."""
    x, y = NUMBERS, Y
    told = "are both split 'val'; put them into one, or rename one"
    with pytest.raises(InvalidInputError, match=f"'val' and 'dev' {told}"):
        load_task({"train": (x, y), "val": (x + 1, y), "dev": (x + 2, y)})
    spec = save(tmp_path, x_train=x, y_train=y, x_val=x, y_val=y, x_valid=x, y_valid=y)
    with pytest.raises(InvalidInputError, match=f"'x_val' and 'x_valid' {told}"):
        load_task(spec)
    with pytest.raises(InvalidInputError, match="'x' and 'x_train' are both split 'train'"):
        load_task(save(tmp_path, X=x, y=y, x_train=x, y_train=y))
    datasets = require("datasets", "a test")
    one = datasets.Dataset.from_dict({"text": list("abcdef"), "label": Y.tolist()})
    with pytest.raises(InvalidInputError, match=f"'validation' and 'dev' {told}"):
        load_task(datasets.DatasetDict(train=one, validation=one, dev=one))


@pytest.mark.parametrize("end", ["wav", "txt", "dcm", "heic", "NPY"])
def test_names_of_files_are_no_texts(tmp_path: Path, end: str) -> None:
    names = [f"scans/{i}.{end}" for i in range(6)]
    pd.DataFrame({"path": names, "label": Y}).to_csv(tmp_path / "t.csv", index=False)
    for data in (f"csv:{tmp_path}/t.csv", Pairs(list(zip(names, Y, strict=True)))):
        with pytest.raises(InvalidInputError, match="texts are names of files, such as 'scans/0"):
            load_task(data)
    assert load_task([f"see {name} or ask" for name in names], Y).modality == "text"


class Pairs(Dataset):
    def __init__(self, pairs: list) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int):
        return self.pairs[index]


def test_a_path_among_paths_of_images_that_is_none_is_told(tmp_path: Path) -> None:
    for odd in ("picture 7", ""):
        cells = [f"{i}.png,{i % 2}\n" for i in range(6)]
        (tmp_path / "t.csv").write_text("file,label\n" + "".join(cells) + f"{odd},1\n")
        with pytest.raises(InvalidInputError, match=r"texts are names of files, such as '0[.]png'"):
            load_task(f"csv:{tmp_path}/t.csv")


def test_numbers_that_float32_cannot_tell_apart_are_refused() -> None:
    seconds = 1.7e9 + np.arange(6)
    with pytest.raises(InvalidInputError, match=r"column 1 differ by too little .* 1\.7e\+09"):
        load_task(np.c_[NUMBERS[:, 0], seconds], Y)
    found = load_task(np.c_[seconds - seconds.mean(), 2.0**24 + np.arange(6) * 2], Y)["train"]
    assert len({x.tobytes() for x in found.examples}) == 6, "exact though large"
    load_task(np.c_[1.7e9 + 86_400 * np.arange(6), np.full(6, 0.1)], Y)


def test_dictionaries_of_other_things_than_splits_name_the_cure(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"load_task\(d\['data'\], d\['target'\]\)"):
        load_task({"data": NUMBERS, "target": Y})
    with pytest.raises(InvalidInputError, match="examples are a dict of input_ids, mask; give one"):
        load_task({"input_ids": NUMBERS, "mask": NUMBERS}, Y)
    with pytest.raises(InvalidInputError, match="has the classes 'ab', one text; give a list"):
        load_task(save(tmp_path, X=NUMBERS, y=Y, classes="ab"))


def test_classes_by_number_of_other_columns_are_no_measurements() -> None:
    datasets = require("datasets", "a test")
    kinds = {"x": datasets.Value("float32"), "label": datasets.ClassLabel(names=["a", "b"])}
    kinds["shape"] = datasets.ClassLabel(names=["point", "line"])  # "int" is in it
    columns = {"x": NUMBERS[:, 0].tolist(), "label": Y.tolist(), "shape": Y.tolist()}
    data = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
    assert load_task(data).understood.inputs == ("x",)
    uneven = datasets.Dataset.from_dict({"x": [[1.0, 2.0], [3.0]] * 3, "label": Y.tolist()})
    with pytest.raises(InvalidInputError, match="column 'x' is not a numeric array: rows of"):
        load_task(uneven)


def test_names_of_folders_that_are_numbers_are_told_in_their_order(tmp_path: Path) -> None:
    for number in ("1", "2", "10"):
        fill(tmp_path / number, 2, 10 * int(number))
    with pytest.warns(TransferMetricsWarning, match="'1' 'one', '10' 'two', '2' 'ten'"):
        load_task(f"imagefolder:{tmp_path}", classes=["one", "two", "ten"])


@pytest.mark.parametrize("shape", [(3, 9, 1), (1, 9, 3), (3, 9, 3)])
def test_maps_whose_channels_may_be_first_or_last_are_refused(shape: tuple[int, ...]) -> None:
    task = load_task(np.random.default_rng(0).random((6, *shape)), Y)
    with pytest.raises(InvalidInputError, match="whose channels may be the first or the last"):
        task["train"].examples[0].image()


def test_a_split_without_the_column_of_labels_is_left_out() -> None:
    datasets = require("datasets", "a test")
    texts = [f"text {i}" for i in range(8)]
    labelled = datasets.Dataset.from_dict({"text": texts, "label": [0, 1] * 4})
    bare = datasets.Dataset.from_dict({"text": [text.upper() for text in texts]})
    with pytest.warns(TransferMetricsWarning, match="left out split 'test', which has no column"):
        task = load_task(datasets.DatasetDict(train=labelled, test=bare))
    assert [*task.splits] == ["train"]
    assert ("split 'test'", "it has no column 'label'") in task.understood.left_out
    # Where the inputs are lacking it is an error, as it was.
    other = datasets.Dataset.from_dict({"label": [0, 1]})
    with pytest.raises(InvalidInputError, match="there is no column 'text'"):
        load_task(datasets.DatasetDict(train=labelled, test=other))

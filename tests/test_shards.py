"""Tasks from tar shards, files of torch, torchvision's data sets, and streams."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Subset

from tests.pictures import PIXELS, Y, png, same
from transfer_metrics.errors import (
    InvalidInputError,
    TransferMetricsWarning,
    UnknownNameError,
    UnsupportedTaskError,
)
from transfer_metrics.sources.optional import require
from transfer_metrics.sources.tasks import suspicions
from transfer_metrics.sources.tasks.example_files import _Members
from transfer_metrics.sources.tasks.load_task import load_task

RNG = np.random.default_rng(0)


def shard(path: Path, files: list[tuple[str, bytes]], **options) -> Path:
    with tarfile.open(path, "w", **options) as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def members(rows=range(6), label="cls") -> list[tuple[str, bytes]]:
    found = []
    for i in rows:
        content = str(Y[i]) if label == "cls" else json.dumps({"label": "nyx"[Y[i]], "id": i % 3})
        found += [(f"set/{i:03}.png", png(PIXELS[i])), (f"set/{i:03}.{label}", content.encode())]
    return found


# ---------------------------------------------------------------- tar


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_shards(tmp_path: Path, form: int) -> None:
    shard(tmp_path / "s-0.tar", members(range(4)), format=form)
    shard(tmp_path / "s-1.tar", members(range(4, 6)), format=form)
    for place in (tmp_path, tmp_path / "s-*.tar"):
        task = load_task(f"tar:{place}")
        assert (task.modality, task.classes) == ("image", ("0", "1"))
        assert same(task)
        assert task["train"].labels.tolist() == Y
    assert same(load_task(f"tar:{tmp_path / 's-1.tar'}"), PIXELS[4:])


def test_fingerprint_is_that_of_the_images(tmp_path: Path) -> None:
    shard(tmp_path / "s.tar", members())
    for name, content in members():
        file = tmp_path / "folder" / str(Y[int(name[4:7])]) / Path(name).name
        if name.endswith("png"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    tar, folder = (
        load_task(f"tar:{tmp_path / 's.tar'}"),
        load_task(f"imagefolder:{tmp_path / 'folder'}"),
    )
    order = np.argsort(Y, kind="stable")
    assert tar["train"].rows(order).fingerprint == folder["train"].fingerprint


def test_labels_in_json(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", members(label="json"))
    assert load_task(f"tar:{path}").classes == ("n", "y")
    assert load_task(f"tar:{path}?label=id").classes == ("0", "1", "2")
    with pytest.raises(InvalidInputError, match="6 labels are missing"):
        load_task(f"tar:{path}?label=none")


def test_texts_and_splits(tmp_path: Path) -> None:
    files = [("a.txt", "ä b".encode()), ("a.cls", b"x"), ("b.txt", b"c"), ("b.cls", b"y")]
    for split in ("train", "test"):
        shard(tmp_path / f"{split}-0.tar", files)
    with pytest.warns(TransferMetricsWarning, match="2 of 2 examples of split 'test' are in"):
        task = load_task(f"tar:{tmp_path}")
    assert (task.modality, sorted(task.splits)) == ("text", ["test", "train"])
    assert list(task["test"].examples) == ["ä b", "c"]
    assert task.classes == ("x", "y")


def test_examples_without_label_or_image(tmp_path: Path) -> None:
    files = [m for m in members() if m[0] != "set/002.cls" and m[0] != "set/003.png"]
    path = shard(tmp_path / "s.tar", files)
    with pytest.raises(InvalidInputError, match=r"1 labels are missing.*example 2"):
        load_task(f"tar:{path}?missing=error")
    with (
        pytest.warns(TransferMetricsWarning, match="left out 1 of 5"),
        pytest.warns(TransferMetricsWarning, match="left out 1 groups of files"),
    ):
        task = load_task(f"tar:{path}")
    assert same(task, PIXELS[[0, 1, 4, 5]])
    told = ("1 groups of files", "neither image nor text")
    assert told in task.understood.left_out
    assert "left out: 1 groups of files (neither image nor text)" in task.summary


def test_damaged_images_in_a_shard(tmp_path: Path) -> None:
    files = members()
    files[4] = (files[4][0], files[4][1][:60])
    path = shard(tmp_path / "s.tar", files)
    with pytest.raises(InvalidInputError, match=r"s\.tar: set/002\.png.*does not decode"):
        list(load_task(f"tar:{path}")["train"].examples)
    with pytest.warns(TransferMetricsWarning, match="left out 1 of 6"):
        assert same(load_task(f"tar:{path}?corrupt=skip"), PIXELS[[0, 1, 3, 4, 5]])


def test_names_that_climb_are_harmless(tmp_path: Path) -> None:
    files = [(f"../../{name}", content) for name, content in members()]
    path = shard(tmp_path / "sub.tar", files)
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("evil.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert same(load_task(f"tar:{path}"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sub.tar"]


def test_archives_that_cannot_be_used(tmp_path: Path) -> None:
    whole = shard(tmp_path / "s.tar", members()).read_bytes()
    ends = [m.offset_data + m.size for m in headers(whole)]
    last = ends[-1] + -ends[-1] % 512
    cases = {
        "within": (whole[: ends[-2] - 5], "ends within|unexpected end"),
        "between": (whole[:last], "its end is missing"),
        "zip": (gzip.compress(whole), "uncompressed"),
        "text": (b"hello", "uncompressed"),
        "empty": (b"", "cannot be read as a tar"),
        "header": (whole[:2048] + b"x" * 512 + whole[2560:], "header at byte 2048"),
        "negative": (negative(whole), "is damaged"),
        "joined": (whole + whole, "another archive follows"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / f"{name}.tar").write_bytes(content)
        with pytest.raises(InvalidInputError, match=message):
            load_task(f"tar:{tmp_path / f'{name}.tar'}")
    nothing = shard(tmp_path / "nothing.tar", [("a.bin", b"x"), ("b", b"y")])
    with pytest.raises(InvalidInputError, match="neither images nor texts"):
        load_task(f"tar:{nothing}")
    large = shard(tmp_path / "large.tar", [("a.txt", b"x"), ("a.cls", bytes(2 << 20))])
    with pytest.raises(InvalidInputError, match="a label has"):
        load_task(f"tar:{large}")
    with pytest.raises(InvalidInputError, match="there is no file"):
        load_task(f"tar:{tmp_path / 'none-*.tar'}")


def headers(whole: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        return archive.getmembers()


def negative(whole: bytes) -> bytes:
    """The second header claims a negative size, which sends a naive reader round in circles."""
    at = headers(whole)[1].offset
    header = bytearray(whole[at : at + 512])
    # Back to the beginning of this very header.
    header[124:136] = b"\xff" + (256**11 - 512).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return whole[:at] + bytes(header) + whole[at + 512 :]


def test_archive_that_was_cut_after_loading(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", members())
    examples = load_task(f"tar:{path}")["train"].examples
    path.write_bytes(path.read_bytes()[:1200])
    with pytest.raises(InvalidInputError, match=r"cannot be read \(the archive was cut\)"):
        examples[5]


def test_memory_does_not_grow_with_the_shards(tmp_path: Path, monkeypatch) -> None:
    noise = RNG.integers(0, 256, 100_000, np.uint8).tobytes()
    monkeypatch.setattr(suspicions, "_MOST_BYTES", 0)  # or equal ones are told
    peaks = []
    for count in (30, 300):
        files = [
            (f"{i:04}.{end}", noise if end == "jpg" else b"01"[i % 2 : i % 2 + 1])
            for i in range(count)
            for end in ("jpg", "cls")
        ]
        path = shard(tmp_path / f"{count}.tar", files)
        tracemalloc.start()
        try:
            examples = load_task(f"tar:{path}")["train"].examples
            assert isinstance(examples, _Members)
            for i in range(count):
                assert len(examples.stored(i)) == 100_000
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    # 270 more examples are 27 MB of files and, in memory, a place and a label each.
    assert peaks[1] - peaks[0] < 270 * 1000


# ---------------------------------------------------------------- torch


def test_torch_files(tmp_path: Path) -> None:
    path = tmp_path / "data.pt"
    x, y = torch.rand(6, 3), torch.tensor(Y)
    torch.save({"X": x, "y": y, "x_test": -x[:2], "y_test": [0, 1], "classes": ["n", "y"]}, path)
    task = load_task(f"torch:{path}")
    assert task.classes == ("n", "y")
    assert np.array_equal(np.stack(task["train"].examples), x.numpy())
    assert task["test"].labels.tolist() == [0, 1]
    torch.save((x, y), path)
    assert load_task(f"torch:{path}")["train"].labels.tolist() == Y
    torch.save({"x": torch.tensor(PIXELS).permute(0, 3, 1, 2), "y": y}, path)
    assert same(load_task(f"torch:{path}"))
    assert same(load_task(torch.tensor(PIXELS).permute(0, 3, 1, 2), y))


def test_torch_files_that_cannot_be_used(tmp_path: Path) -> None:
    ran = []

    class Bomb:
        def __reduce__(self):
            return (ran.append, (1,))

    path = tmp_path / "data.pt"
    for content, message in [
        ({"X": torch.rand(2, 2), "y": Bomb()}, "never executed"),
        (torch.rand(3), "holds a Tensor; save a dictionary"),
        ({"X": torch.rand(2, 2)}, "has x but no y"),
        ({"features": torch.rand(2, 2)}, "it needs X and y"),
    ]:
        torch.save(content, path)
        with pytest.raises(InvalidInputError, match=message):
            load_task(f"torch:{path}")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InvalidInputError, match="cannot be read"):
        load_task(f"torch:{path}")
    assert not ran


# ---------------------------------------------------------------- torchvision


def idx(folder: Path, name: str, array: np.ndarray) -> None:
    """A file as MNIST has them: a magic number with the rank, the sizes, the bytes."""
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(head + array.tobytes())


def test_torchvision_by_name(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    pixels = RNG.integers(0, 256, (30, 28, 28), np.uint8)
    digits = np.arange(30, dtype=np.uint8) % 10
    for split, rows in (("train", slice(0, 20)), ("t10k", slice(20, 30))):
        idx(raw, f"{split}-images-idx3-ubyte", pixels[rows])
        idx(raw, f"{split}-labels-idx1-ubyte", digits[rows])
    task = load_task(f"torchvision:MNIST?root={tmp_path}")
    assert task.classes[:2] == ("0 - zero", "1 - one")
    assert same(task, pixels[:20])
    assert task["test"].labels.tolist() == list(range(10))


def test_arguments_of_a_data_set_of_torchvision(tmp_path: Path) -> None:
    raw = tmp_path / "EMNIST" / "raw"
    pixels = RNG.integers(0, 256, (24, 28, 28), np.uint8)
    letters = np.arange(24, dtype=np.uint8) % 3 + 1
    for split, rows in (("train", slice(0, 18)), ("test", slice(18, 24))):
        idx(raw, f"emnist-letters-{split}-images-idx3-ubyte", pixels[rows])
        idx(raw, f"emnist-letters-{split}-labels-idx1-ubyte", letters[rows])
    task = load_task(f"torchvision:EMNIST?split=letters&root={tmp_path}")
    assert same(task, pixels[:18])
    assert [task.classes[label] for label in task["test"].labels] == ["a", "b", "c"] * 2
    part = load_task(f"torchvision:EMNIST?split=letters&train=false&root={tmp_path}")
    assert same(part, pixels[18:])
    fake = load_task("torchvision:FakeData?size=30&image_size=3,8,6&num_classes=2")
    assert (len(fake["train"]), fake.num_classes, fake["train"].examples[0].size) == (30, 2, (6, 8))
    for options, told in (
        ("EMNIST?root=.", "say .split= and one of byclass, bymerge"),
        ("EMNIST?split=leters&root=.", "Unknown value 'leters'.*correct the options"),
        ("FakeData?size=few", "cannot be interpreted.*correct the options"),
    ):
        with pytest.raises(InvalidInputError, match=told):
            load_task(f"torchvision:{options}")
    for option in ("download", "transform", "splt"):
        with pytest.raises(UnknownNameError, match=f"option of torchvision:SVHN '{option}'"):
            load_task(f"torchvision:SVHN?{option}=1")


def test_torchvision_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"CIFAR10 below .*download=True.*say \?root="):
        load_task(f"torchvision:CIFAR10?root={tmp_path}")
    with pytest.raises(UnknownNameError, match="did you mean 'CIFAR10"):
        load_task("torchvision:CIFAR-10")
    assert list(tmp_path.iterdir()) == []


class Counted(Dataset):
    """Images with labels beside them, as torchvision has them."""

    def __init__(self, **labels) -> None:
        self.fetched = 0
        vars(self).update(labels)

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int):
        self.fetched += 1
        return Image.fromarray(PIXELS[index]), Y[index]


@pytest.mark.parametrize("name", ["targets", "labels", "_labels"])
@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_labels_without_loading_images(name: str, kind) -> None:
    data = Counted(**{name: kind(Y)})
    assert load_task(data)["train"].labels.tolist() == Y
    assert data.fetched == 3 * 6  # once for its label, twice to see that it stays what it is
    part = load_task(Subset(data, [5, 1, 3]))
    assert part["train"].labels.tolist() == [0, 1, 1]
    assert data.fetched == 3 * 9


def test_labels_that_are_not_those_returned() -> None:
    """Something called targets that means another thing is not believed."""
    data = Counted(targets=[7, 7, 8, 8, 9, 9])
    assert load_task(data)["train"].labels.tolist() == Y


def test_fake_data_of_torchvision() -> None:
    fake = require("torchvision", "a test").datasets.FakeData(20, (3, 8, 8), 3)
    with pytest.warns(TransferMetricsWarning, match="20 of 20 examples of split 'test' are in"):
        task = load_task({"train": fake, "test": fake}, test_size=None)
    assert task.modality == "image"
    assert task["train"].labels.tolist() == [int(fake[i][1]) for i in range(20)]


# ---------------------------------------------------------------- streams


class Stream(IterableDataset):
    def __init__(self) -> None:
        self.read = 0

    def __iter__(self):
        for i in range(10**9):
            self.read += 1
            yield PIXELS[i % 6], Y[i % 6]


def test_streams() -> None:
    stream = Stream()
    with pytest.raises(UnsupportedTaskError, match=r"first=10000.*Parquet or tar shards"):
        load_task(stream)
    task = load_task(stream, first=6)
    assert stream.read == 6
    assert same(task)
    assert task["train"].labels.tolist() == Y
    assert len(load_task(stream, first=100, examples=10)["train"]) == 10
    for wrong in (0, "x", -1):
        with pytest.raises(InvalidInputError, match="give a whole number of examples"):
            load_task(stream, first=wrong)
    with pytest.raises(UnknownNameError, match="did you mean 'first'"):
        load_task(stream, frist=1)


def test_streams_of_columns() -> None:
    import datasets

    rows = {"text": list("abcdef"), "label": Y}
    stream = datasets.Dataset.from_dict(rows).to_iterable_dataset()
    with pytest.warns(TransferMetricsWarning, match="4 of 4 examples of split 'test' are in"):
        task = load_task({"train": stream, "test": stream}, first=4, label="label")
    assert list(task["test"].examples) == list("abcd")
    with pytest.raises(UnsupportedTaskError, match="IterableDataset"):
        load_task(stream)
    with pytest.raises(InvalidInputError, match="yields nothing"):
        load_task(stream.filter(lambda row: False), first=4)


def test_the_classes_of_a_stream_can_be_named() -> None:
    class Pairs(IterableDataset):
        def __iter__(self):
            return iter([("a", 0), ("b", 1), ("c", 0)])

    assert load_task(Pairs(), first=3, classes=["x", "y"]).classes == ("x", "y")


def test_a_compressed_table_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"text,label\na,x\nb,y\n"))
    with pytest.raises(InvalidInputError, match="is packed; unpack it"):
        load_task(f"csv:{tmp_path}/t.csv.gz")


def test_members_that_systems_added_and_marks_of_texts_are_left_out(tmp_path: Path) -> None:
    litter = [("__MACOSX/./0.png", b"junk"), ("__MACOSX/./0.cls", b"1")]
    plain = [(f"./{name}", content) for name, content in members()]
    assert same(load_task(f"tar:{shard(tmp_path / 'a.tar', [*plain, *litter])}"))
    texts = [(f"{i}.{end}", b"\xef\xbb\xbf%d" % i) for i in range(4) for end in ("txt", "cls")]
    task = load_task(f"tar:{shard(tmp_path / 'b.tar', texts)}")
    assert list(task["train"].examples) == ["0", "1", "2", "3"]
    assert task.classes == ("0", "1", "2", "3")


def test_what_cannot_be_read_for_certain_is_refused(tmp_path: Path) -> None:
    files = [
        (f"{i}.{end}", b"caf\xe9" if end == "txt" else b"x")
        for i in range(3)
        for end in ("txt", "cls")
    ]
    good = [(f"{i}.{end}", b"%d" % i) for i in (4, 5) for end in ("txt", "cls")]
    spec = f"tar:{shard(tmp_path / 'a.tar', [*files, *good])}"
    with pytest.raises(InvalidInputError, match=r"0\.txt is not in UTF-8"):
        load_task(spec)
    with pytest.warns(TransferMetricsWarning, match="left out 3 of 5 examples"):
        assert list(load_task(f"{spec}?corrupt=skip")["train"].examples) == ["4", "5"]
    two = [(f"{i}.{end}", png(PIXELS[i])) for i in range(2) for end in ("png", "jpg")]
    with pytest.raises(InvalidInputError, match=r"has several images, \.png and \.jpg"):
        load_task(f"tar:{shard(tmp_path / 'b.tar', two)}")

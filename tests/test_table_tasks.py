"""Tasks from tables: paths to images, and Parquet of every kind."""

from __future__ import annotations

import pickle
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.pictures import PIXELS, Y, png, same
from transfer_metrics.errors import (
    InvalidInputError,
    MissingDependencyError,
    TransferMetricsWarning,
    UnsupportedTaskError,
)
from transfer_metrics.sources import optional
from transfer_metrics.sources.tasks import parquet
from transfer_metrics.sources.tasks.load_task import load_task

RNG = np.random.default_rng(0)


def pictures(folder: Path) -> list[str]:
    (folder / "im").mkdir(parents=True)
    for i, pixels in enumerate(PIXELS):
        (folder / "im" / f"{i}.png").write_bytes(png(pixels))
    return [f"im/{i}.png" for i in range(len(PIXELS))]


def write(frame: pd.DataFrame, path: Path) -> str:
    kind = path.suffix[1:]
    if kind == "parquet":
        frame.to_parquet(path, row_group_size=2)
    elif kind == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    return f"{kind}:{path}"


# ---------------------------------------------------------------- paths to images


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_column_of_paths(tmp_path: Path, monkeypatch, kind: str) -> None:
    frame = pd.DataFrame({"file": pictures(tmp_path), "caption": list("abcdef"), "label": Y})
    spec = write(frame, tmp_path / f"t.{kind}")
    monkeypatch.chdir(tmp_path.parent)
    task = load_task(spec)
    assert (task.modality, task.classes) == ("image", ("0", "1"))
    assert same(task)
    assert load_task(f"{spec}?text=caption").modality == "text"
    assert same(load_task(f"{spec}?image=file"))


def test_fingerprint_is_that_of_the_images(tmp_path: Path) -> None:
    frame = pd.DataFrame({"file": pictures(tmp_path), "label": Y})
    one, other = (load_task(write(frame, tmp_path / n))["train"] for n in ("t.csv", "t.parquet"))
    assert one.fingerprint == other.fingerprint
    (tmp_path / "im" / "3.png").write_bytes(png(PIXELS[0]))
    with pytest.warns(TransferMetricsWarning, match="2 of 6 .* such as '0.png' of '0' and '3.png'"):
        changed = load_task(f"csv:{tmp_path / 't.csv'}")["train"]
    assert changed.fingerprint != one.fingerprint


def test_paths_may_not_leave_the_folder(tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "sub").mkdir()
    absolute = str(tmp_path / "im" / "0.png")
    for wrong in ("../im/0.png", absolute, "im/../../im/0.png"):
        others = [wrong, wrong.replace("0.png", "1.png")]
        frame = pd.DataFrame({"file": others, "label": [0, 1]})
        spec = write(frame, tmp_path / "sub" / "t.csv")
        with pytest.raises(InvalidInputError, match=r"row 1 names .*outside of.*say root=FOLDER"):
            load_task(spec)
        inside = tmp_path if wrong == absolute else "/"
        with pytest.raises(InvalidInputError) if inside == "/" else nullcontext():
            examples = load_task(f"{spec}?root={inside}")["train"].examples
            assert np.array_equal(np.asarray(examples[0]), PIXELS[0])


def test_root_is_where_paths_start(tmp_path: Path) -> None:
    names = pictures(tmp_path / "data")
    spec = write(pd.DataFrame({"file": names, "label": Y}), tmp_path / "t.csv")
    with pytest.raises(InvalidInputError, match=r"there is no file.*say root=FOLDER"):
        load_task(spec)
    assert same(load_task(f"{spec}?root={tmp_path / 'data'}"))
    assert same(load_task(spec, root=str(tmp_path / "data")))


def test_images_that_are_not_there(tmp_path: Path) -> None:
    names = [*pictures(tmp_path)[:5], "im/none.png"]
    spec = write(pd.DataFrame({"file": names, "label": Y}), tmp_path / "t.csv")
    with pytest.raises(InvalidInputError, match=r"1 of 6 images cannot be read: im/none\.png"):
        load_task(spec)
    with pytest.warns(TransferMetricsWarning, match="left out 1 of 6"):
        task = load_task(f"{spec}?corrupt=skip")
    assert same(task, PIXELS[:5])


def test_two_columns_of_paths(tmp_path: Path) -> None:
    names = pictures(tmp_path)
    spec = write(pd.DataFrame({"a": names, "b": names[::-1], "label": Y}), tmp_path / "t.csv")
    with pytest.raises(InvalidInputError, match=r"a, b hold images; say \?image=column"):
        load_task(spec)
    assert same(load_task(f"{spec}?image=b"), PIXELS[::-1])


def test_split_column_with_images(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"file": pictures(tmp_path), "split": ["train", "test"] * 3, "label": list("xxyxyy")}
    )
    task = load_task(write(frame, tmp_path / "t.csv"))
    assert same(task, PIXELS[::2])
    assert np.array_equal(np.asarray(task["test"].examples[1]), PIXELS[3])


# ---------------------------------------------------------------- Parquet


@pytest.mark.parametrize("form", ["bytes", "struct", "large"])
def test_images_inside(tmp_path: Path, form: str) -> None:
    files = [png(p) for p in PIXELS]
    kinds = {
        "bytes": pa.array(files, pa.binary()),
        "large": pa.array(files, pa.large_binary()),
        "struct": pa.array([{"bytes": f, "path": None} for f in files]),
    }
    table = pa.table({"image": kinds[form], "label": Y})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    task = load_task(f"parquet:{tmp_path / 't.parquet'}")
    assert same(task)
    order = [5, 0, 3, 1]
    shuffled = task["train"].rows(np.array(order))
    assert np.array_equal(np.stack([np.asarray(i) for i in shuffled.examples]), PIXELS[order])
    # As loader processes get them where processes are not forked.
    sent = pickle.loads(pickle.dumps(task["train"].examples))  # noqa: S301
    assert np.array_equal(np.asarray(sent[4]), PIXELS[4])


def test_images_beside_the_file(tmp_path: Path) -> None:
    cells = [{"bytes": None, "path": name} for name in pictures(tmp_path)]
    cells[1] = {"bytes": None, "path": "../secret.png"}
    cells[2] = {"bytes": None, "path": None}
    pq.write_table(pa.table({"image": cells, "label": Y}), tmp_path / "t.parquet")
    examples = load_task(f"parquet:{tmp_path / 't.parquet'}")["train"].examples
    assert np.array_equal(np.asarray(examples[0]), PIXELS[0])
    with pytest.raises(InvalidInputError, match="outside of"):
        examples[1]
    with pytest.raises(InvalidInputError, match=r"row 3 has no image.*corrupt=skip"):
        examples[2]


def test_as_the_datasets_library_writes_it(tmp_path: Path) -> None:
    import datasets

    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])}
    data = datasets.Dataset.from_dict(
        {"image": [Image.fromarray(p) for p in PIXELS], "label": [*Y[:5], -1]},
        features=datasets.Features(features),
    )
    datasets.disable_progress_bars()
    data.to_parquet(tmp_path / "t.parquet", batch_size=2)
    with pytest.warns(TransferMetricsWarning, match="left out 1 of 6"):
        task = load_task(f"parquet:{tmp_path / 't.parquet'}?missing=skip")
    assert task.classes == ("no", "yes")
    assert same(task, PIXELS[:5])
    with pytest.warns(TransferMetricsWarning, match="left out 1 of 6"):
        assert load_task(data, missing="skip")["train"].fingerprint == task["train"].fingerprint
    stream = data.to_iterable_dataset()
    taken = load_task(stream, first=5)
    assert taken["train"].fingerprint == task["train"].fingerprint
    assert taken.classes == task.classes


def test_texts_pairs_words_and_numbers(tmp_path: Path) -> None:
    def of(**columns) -> list:
        spec = write(pd.DataFrame(columns), tmp_path / "t.parquet")
        return list(load_task(spec)["train"].examples)

    with pytest.warns(TransferMetricsWarning, match="1 of 3 texts of split 'train' are empty"):
        assert of(text=["a", None, "ü"], label=[0, 1, 0]) == ["a", "", "ü"]
    assert of(premise=["a", "b"], hypothesis=["c", "d"], label=["x", "y"]) == [
        ("a", "c"),
        ("b", "d"),
    ]
    words = of(tokens=[["a", "b"], ["c"]], ner_tags=[[1, -100], [0]])
    assert [(w.sentence, w.position) for w in words] == [(("a", "b"), 0), (("c",), 0)]
    vectors = [np.array([1.0, 2.0], np.float32), np.array([3.0, 4.0], np.float32)]
    rows = of(v=vectors, n=[5, 6], f=[True, False], label=[0, 1])
    assert np.stack(rows).tolist() == [[1, 2, 5, 1], [3, 4, 6, 0]]


def test_parquet_equals_csv(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": RNG.normal(size=9), "b": range(9), "label": list("xyzxyzxyz")})
    csv, parquet = (load_task(write(frame, tmp_path / n)) for n in ("t.csv", "t.parquet"))
    assert csv["train"].fingerprint == parquet["train"].fingerprint
    assert csv.classes == parquet.classes
    target = load_task(f"parquet:{tmp_path / 't.parquet'}?label=a&features=b")
    assert target.kind == "regression"


def test_files_by_split(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": list("abcdef"), "label": Y})
    (tmp_path / "data").mkdir()
    for name in ("train-00000-of-00002", "train-00001-of-00002"):
        write(frame, tmp_path / "data" / f"{name}.parquet")
    others = frame.assign(text=list("ghijkl"))
    write(others, tmp_path / "data" / "validation-00000-of-00001.parquet")
    task = load_task(f"parquet:{tmp_path}")
    assert {name: len(split) for name, split in task.splits.items()} == {"train": 12, "val": 6}
    assert list(task["val"].examples) == list("ghijkl")
    pattern = load_task(f"parquet:{tmp_path}/data/train-*.parquet")
    assert (list(pattern.splits), len(pattern["train"])) == (["train"], 12)
    write(frame, tmp_path / "extra.parquet")
    with pytest.raises(InvalidInputError, match=r"of which split is .*extra\.parquet"):
        load_task(f"parquet:{tmp_path}")
    write(frame.rename(columns={"text": "words"}), tmp_path / "data" / "test-0.parquet")
    with pytest.raises(InvalidInputError, match="has other columns than"):
        load_task(f"parquet:{tmp_path / 'data'}")


def test_parquet_that_cannot_be_used(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.0, None], "d": pd.to_datetime(["2020", "2021"]), "label": [0, 1]})
    spec = write(frame, tmp_path / "t.parquet")
    with pytest.raises(InvalidInputError, match="1 rows hold NaN"):
        load_task(f"{spec}?features=a")
    dates = load_task(write(frame.fillna({"a": 2.0}), tmp_path / "dates.parquet"))
    assert dates.understood.left_out == (("column 'd'", "it is not read"),)
    write(frame.head(0), tmp_path / "none.parquet")
    with pytest.raises(InvalidInputError, match="has no rows; write one per example"):
        load_task(f"parquet:{tmp_path / 'none.parquet'}")
    ragged = pd.DataFrame({"v": [[1.0], [1.0, 2.0]], "label": [0, 1]})
    with pytest.raises(InvalidInputError, match="vectors of one length"):
        load_task(write(ragged, tmp_path / "ragged.parquet"))
    whole = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidInputError, match=r"cut.parquet.*cannot be read as Parquet"):
        load_task(f"parquet:{tmp_path / 'cut.parquet'}")
    middle = bytearray(whole)
    middle[4:60] = bytes(56)
    (tmp_path / "bent.parquet").write_bytes(middle)
    with pytest.raises(InvalidInputError, match=r"bent.parquet.*cannot be read as Parquet"):
        load_task(f"parquet:{tmp_path / 'bent.parquet'}?features=a")


def test_sounds_in_parquet(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"audio": datasets.Audio(), "label": datasets.Value("int64")})
    columns = {"audio": [{"bytes": b"x", "path": None}] * 2, "label": [0, 1]}
    table = pa.table(columns, schema=features.arrow_schema)
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(UnsupportedTaskError, match="holds sounds"):
        load_task(f"parquet:{tmp_path / 't.parquet'}")


def test_large_row_groups_are_told_of(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(parquet, "_LARGE", 1000)
    frame = pd.DataFrame({"text": [f"{i} " * 200 for i in range(6)], "label": Y})
    with pytest.warns(TransferMetricsWarning, match="row_group_size=1000"):
        load_task(write(frame, tmp_path / "t.parquet"))


def test_without_pyarrow(tmp_path: Path, monkeypatch) -> None:
    spec = write(pd.DataFrame({"text": ["a", "b"], "label": [0, 1]}), tmp_path / "t.parquet")

    def absent(name: str):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])

    monkeypatch.setattr(optional.importlib, "import_module", absent)
    with pytest.raises(MissingDependencyError, match="pip install pyarrow"):
        load_task(spec)


def test_memory_holds_one_row_group(tmp_path: Path) -> None:
    cell = RNG.integers(0, 256, 100_000, np.uint8).tobytes()
    peaks = []
    for count in (40, 400):
        path = tmp_path / f"{count}.parquet"
        # Other bytes in every row, or a dictionary would keep them once.
        rows = [count.to_bytes(4, "big") + i.to_bytes(4, "big") + cell for i in range(count)]
        labels = [i % 2 for i in range(count)]
        table = pa.table({"image": pa.array(rows, pa.binary()), "label": labels})
        pq.write_table(table, path, row_group_size=10, compression=None)
        del table
        examples = load_task(f"parquet:{path}")["train"].examples
        pool = pa.default_memory_pool()
        most = 0
        for i in range(count):
            assert examples.stored(i) == rows[i]
            most = max(most, pool.bytes_allocated())
        peaks.append(most)
        examples = None
    # One group is 1 MB of 40; the reader may be a few ahead.
    assert max(peaks) < 8e6


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("subset", ("train", "test")),
        ("Split", ("TRAIN", "TEST")),
        ("Usage", ("Training", "PublicTest")),
        ("set", ("train_set", "test_set")),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_column_that_says_splits_by_another_name(tmp_path: Path, column, words, kind) -> None:
    frame = pd.DataFrame({"text": [f"film {i}" for i in range(12)], "label": ["a", "b"] * 6})
    frame[column] = [words[i % 4 == 0] for i in range(12)]
    task = load_task(write(frame, tmp_path / f"t.{kind}"))
    assert list(task["test"].examples) == [f"film {i}" for i in range(0, 12, 4)]
    assert len(task["train"]) == 9
    assert task.understood.inputs == ("text",)


def test_a_column_of_another_meaning_is_no_split(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": [f"film {i}" for i in range(12)], "label": ["a", "b"] * 6})
    frame["set"] = ["train", "bus", "car"] * 4
    assert len(load_task(write(frame, tmp_path / "t.csv"))["train"]) == 12
    frame = pd.DataFrame(RNG.normal(size=(12, 2)), columns=["x", "z"]).assign(label=["a", "b"] * 6)
    frame["is_train"], frame["fold"] = [1, 1, 0] * 4, np.arange(12) % 5
    with pytest.warns(TransferMetricsWarning, match="'is_train' may say which rows"):
        task = load_task(write(frame[["is_train", "fold", "x", "z", "label"]], tmp_path / "n.csv"))
    assert task.understood.inputs == ("x", "z")


def test_paths_as_windows_writes_them(tmp_path: Path) -> None:
    names = [name.replace("/", "\\") for name in pictures(tmp_path)]
    assert same(load_task(write(pd.DataFrame({"file": names, "label": Y}), tmp_path / "t.csv")))
    (tmp_path / "im" / "odd\\name.png").write_bytes(png(PIXELS[0]))
    names[0] = "im/odd\\name.png"
    assert same(load_task(write(pd.DataFrame({"file": names, "label": Y}), tmp_path / "t.csv")))

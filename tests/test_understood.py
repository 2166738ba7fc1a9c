"""What was understood of a task is said, and what may be a mistake is told."""

from __future__ import annotations

import io
import json
import unicodedata
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset

import transfer_metrics as tm
from transfer_metrics.__main__ import main
from transfer_metrics.errors import TransferMetricsWarning
from transfer_metrics.report.html import write_report
from transfer_metrics.sources.tasks import suspicions as loading
from transfer_metrics.sources.tasks.load_task import list_tasks, load_task
from transfer_metrics.sources.tasks.sequences import Files
from transfer_metrics.sources.tasks.suspicions import repeats, suspicions
from transfer_metrics.sources.tasks.task import Understood

RNG = np.random.default_rng(0)
GLYPHS = "zoo:glyphs?examples=216"
SAID = (
    "zoo:glyphs?examples=216: classification of images, train 216 "
    "(36 classes: A ×6, B ×6, … 9 ×6), test 864, ood 972"
)


def numbers(labels, width: int = 3) -> tuple[np.ndarray, list]:
    return RNG.normal(size=(len(labels), width)), list(labels)


def told(*args, **options) -> list[str]:
    """What is warned of when a task is loaded."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_task(*args, **options)
    assert all(w.category is TransferMetricsWarning for w in caught)
    assert all(w.filename == __file__ for w in caught), "where the user is"
    return [str(w.message) for w in caught]


# ---------------------------------------------------------------- one line


def test_counts_are_those_of_the_labels() -> None:
    parts = {"train": numbers("aaabbc"), "test": numbers("ab")}
    line = "x: classification of numbers, train 6 (3 classes: a ×3, b ×2, c ×1), test 2"
    assert load_task(parts, name="x").summary == line


def test_of_many_classes_the_ends_are_told() -> None:
    task = load_task(*numbers([str(i) for i in range(10)] * 2), name="x")
    assert task.summary == "x: classification of numbers, train 20 (10 classes: 0 ×2, 1 ×2, … 9 ×2)"


def test_targets_are_told_by_their_range() -> None:
    line = "x: regression of numbers, train 3 (targets -1.5 to 2.25)"
    assert load_task(*numbers([0.5, -1.5, 2.25]), name="x").summary == line
    two = load_task(np.eye(3), [[0.5, 1.0], [2.0, 8.0], [3.5, 1.5]], name="x")
    assert two.summary == "x: regression of numbers, train 3 (2 targets 0.5 to 8)"


def test_columns_and_what_is_left_out() -> None:
    left_out = [("id", "it numbers the rows"), *((f"c{i}", "a date") for i in range(9))]
    how = Understood("a, b", tuple(f"x{i}" for i in range(8)), tuple(left_out))
    summary = replace(load_task(*numbers([0, 1])), understood=how).summary
    assert summary.endswith(
        "; label 'a, b'; inputs x0, x1, … x7 (8 columns); "
        "left out: id (it numbers the rows), c0 (a date), c1 (a date), c2 (a date) and 6 more"
    )


def test_names_cannot_break_the_line() -> None:
    task = load_task(*numbers(["a\nb", "\x1b[2J", "\udcff", "x" * 500]), name="t")
    assert task.summary.isprintable()
    assert len(task.summary) < 400
    task.summary.encode()


def test_hub_data_say_their_columns() -> None:
    import datasets

    rows = {"idx": range(3), "text": list("abc"), "label": [0, 1, 1], "__index_level_0__": range(3)}
    task = load_task(datasets.Dataset.from_dict(rows))
    index = "the index of a data frame"
    left_out = (("column 'idx'", "it numbers the rows"), ("column '__index_level_0__'", index))
    assert task.understood == Understood("label", ("text",), left_out)
    only = datasets.Dataset.from_dict({k: v for k, v in rows.items() if k != "text"})
    task = load_task(only.add_column("b", [0.5, 1.5, 2.5]))
    assert task.understood.inputs == ("b",)
    assert task["train"].examples[2].tolist() == [2.5]


def noise_folders(root: Path, *classes: str) -> None:
    """Two images of noise in a folder for each class."""
    for name in classes:
        (root / name).mkdir()
        for i in range(2):
            pixels = RNG.integers(0, 256, (5, 5, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")


def test_damaged_images_are_told(tmp_path: Path) -> None:
    noise_folders(tmp_path, "a", "b")
    (tmp_path / "a" / "2.png").write_bytes(b"x")
    with pytest.warns(TransferMetricsWarning, match="left out 1 of 5"):
        task = load_task(f"imagefolder:{tmp_path}", corrupt="skip")
    assert task.summary.endswith("left out: 1 examples of train (they cannot be read)")


# ---------------------------------------------------------------- where it is said


def test_a_ranking_says_it_everywhere(capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["rank", "--models", "zoo:cnn-mnist", "--task", GLYPHS, "--no-plots", "--metrics", "knn"]
    for cached in (False, True):
        assert main(argv) == 0
        out, err = capsys.readouterr()
        assert err.count(SAID) == 1, cached
        assert err.startswith(SAID)
        assert out.rstrip().endswith(f"\n\n{SAID}")
        table = tm.ScoreTable.load("transfer-metrics/scores.jsonl")
        assert table.task_summaries == [SAID]
        assert SAID in str(table)
    for name in ("t.csv", "t.jsonl"):
        table.save(name)
        assert tm.ScoreTable.load(name).task_summaries == [SAID]
    write_report(table, "report.html")
    assert SAID in Path("report.html").read_text("utf-8")
    assert main([*argv, "--json", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert {record["task_summary"] for record in json.loads(out)} == {SAID}
    assert SAID not in err


@pytest.mark.integration
@pytest.mark.parametrize(
    "argv",
    [
        ["rank", "--models", "zoo:cnn-mnist", "--dry-run"],
        ["layers", "--model", "zoo:cnn-mnist", "--layers", "last"],
        ["extract", "--model", "zoo:cnn-mnist", "--layers", "last", "--out", "features"],
        ["select", "--model", "zoo:cnn-mnist", "--by", "knn"],
        ["train", "--model", "zoo:cnn-mnist", "--out", "head"],
        ["compare", "--models", "zoo:cnn-mnist", "--heads", "linear_probe", "--seeds", "1"],
        ["report", "--models", "zoo:cnn-mnist", "--metrics", "knn"],
    ],
)
def test_every_verb_says_it_once(capsys, tmp_path: Path, monkeypatch, argv: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*argv, "--task", GLYPHS]) == 0
    out, err = capsys.readouterr()
    assert err.count(SAID) == 1
    if argv[0] == "compare":
        assert SAID in out
        assert tm.ScoreTable.load("transfer-metrics/comparison.jsonl").task_summaries == [SAID]


def test_the_same_features_of_two_tasks_have_a_line_each(tmp_path: Path) -> None:
    """Scores of equal content come from the cache, under the name of the task of today."""
    data = load_task(GLYPHS)
    tables = [
        tm.rank_models("zoo:cnn-mnist", replace(data, name=name), "knn", progress=False)
        for name in ("one", "two")
    ]
    assert [t.task_summaries[0].partition(":")[0] for t in tables] == ["one", "two"]
    assert (tables[0] + tables[1]).task_summaries == [t.task_summaries[0] for t in tables]


def test_tables_of_before_can_be_read(tmp_path: Path) -> None:
    record = {"model": "a", "layer": "fc", "metric": "knn", "value": 0.5, "task": "t"}
    (tmp_path / "t.jsonl").write_text(json.dumps(record) + "\n")
    table = tm.ScoreTable.load(tmp_path / "t.jsonl")
    assert table.task_summaries == []
    assert len(table.format().splitlines()) == 2


def test_scores_of_arrays_say_what_the_labels_are() -> None:
    x = RNG.normal(size=(30, 4))
    classes = tm.score(x, [0, 1, 1] * 10, "knn").task_summaries
    assert classes == ["classification of features, 30 examples (2 classes of 10 to 20)"]
    noise = RNG.normal(size=30)
    targets = tm.score(x, noise, "logme").task_summaries
    assert targets[0].startswith("regression of features, 30 examples (targets -")


# ---------------------------------------------------------------- suspicions


def test_what_comes_with_the_toolkit_is_not_suspicious() -> None:
    for name in list_tasks():
        assert not told(name)


@pytest.mark.parametrize(
    ("labels", "warned"),
    [
        ([f"n{i}" for i in range(20)], True),
        ([f"n{i % 19}" for i in range(20)], True),
        ([f"n{i % 10}" for i in range(20)], False),
        (["a", "b", "c"], False),
    ],
)
def test_a_class_per_example(labels: list[str], warned: bool) -> None:
    found = [text for text in told(*numbers(labels)) if "about one each" in text]
    assert len(found) == warned
    if warned:
        assert "name another column with label=, or say kind=regression" in found[0]


def test_one_of_each_by_choice_is_no_mistake() -> None:
    assert not told(*numbers([f"n{i % 10}" for i in range(40)]), examples=10)


@pytest.mark.parametrize(("rare", "warned"), [(4, True), (5, False), (6, False)])
def test_one_class_above_95_per_cent(rare: int, warned: bool) -> None:
    found = told(*numbers(["a"] * (100 - rare) + ["b"] * rare))
    assert bool(found) == warned
    if warned:
        assert f"class 'a' has {100 - rare} of 100 training examples" in found[0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cat", "Cat"),
        ("pos", " pos"),
        ("pos", "pos "),
        ("New  York", "new york"),
        ("a\u00a0b", "a b"),
        (unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")),
        ("cat", "\uff43\uff41\uff54"),
        ("STRASSE", "straße"),
    ],
)
def test_classes_that_look_alike(one: str, other: str) -> None:
    [text] = told(*numbers([one, other, "dog"] * 3))
    assert "differ only by case, space or Unicode form" in text
    assert "rename one of them" in text
    shown = text.partition("form: ")[2].partition(";")[0].split(", ")
    assert len(set(shown)) == 2, "one can be told from the other"


def test_letters_of_both_cases_are_classes() -> None:
    assert not told(*numbers(["a", "A", "b", "B"] * 3))


def test_classes_that_train_lacks() -> None:
    parts = {"train": numbers("aabb"), "test": numbers("abcd")}
    [text] = told(parts)
    assert "split 'test' has classes 'c', 'd', of which 'train' has no example" in text
    assert not told({"train": numbers("aabbcd"), "test": numbers("ab")})


def test_what_a_source_suspects_is_told() -> None:
    task = load_task(*numbers([0, 1]), name="x")
    how = Understood(suspicions=("column 'n' counts the examples; leave it out",))
    assert suspicions(replace(task, understood=how)) == list(how.suspicions)


# ---------------------------------------------------------------- repeated examples


def test_rows_that_are_in_train_as_well() -> None:
    x, y = numbers("abab")
    [text] = told({"train": (x, y), "test": (np.vstack([x[1:3], x[:1] + 1]), ["b", "a", "a"])})
    assert "2 of 3 examples of split 'test' are in 'train' as well" in text
    assert "take them out of one of the two" in text
    assert not told({"train": (x, y), "test": (x[:1], ["a"])}), "one may be equal by chance"


def test_rows_of_few_different_numbers_are_equal_by_chance() -> None:
    rows = np.eye(4, dtype=np.float32)[RNG.integers(0, 4, 200)]
    counts = RNG.poisson(0.03, (200, 40))
    y = RNG.integers(0, 2, 200)
    for x in (rows, counts, np.eye(2)[y] + 0 * rows[:, :2]):
        drawn = {"train": (x[:150], y[:150]), "test": (x[150:], y[150:])}
        texts = [text for text in told(drawn) if "as well" in text]
        # Where the label follows from the row nobody can tell copies from chance.
        assert bool(texts) == (x.shape[1] == 2)
        targets = {split: (x, y + 0.5 * RNG.random(len(y))) for split, (x, y) in drawn.items()}
        assert not [text for text in told(targets) if "as well" in text]
    copied = {"train": (counts, y), "test": (counts[:50], y[:50])}
    assert [text for text in told(copied) if "50 of 50 examples of split 'test'" in text]
    twice = np.repeat(RNG.normal(size=(40, 3)), 2, axis=0)
    assert told({"train": (twice[::2], y[:40]), "test": (twice[1::2], y[:40])})


def test_texts_pictures_and_pairs() -> None:
    pixels = RNG.integers(0, 256, (6, 5, 5, 3), np.uint8)
    pictures = [Image.fromarray(p) for p in pixels]
    for train, test in (
        (list("abcd"), ["d", "e"]),
        ([("a", "b"), ("c", "d"), ("e", "f"), ("g", "h")], [("c", "d"), ("c", "b")]),
        (pixels[:4], pixels[3:5]),
        (pictures[:4], pictures[3:5]),
    ):
        [text] = told({"train": (train, [0, 1, 0, 1]), "test": (test, [0, 1])})
        assert "1 of 2 examples of split 'test' are in 'train'" in text


def test_files_are_read_only_where_their_sizes_agree(tmp_path: Path, monkeypatch) -> None:
    for split, shift in (("train", 0), ("test", 3)):
        for name in ("a", "b"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(4):
                # Of a size of their own, but that 3 of train is 0 of test, and 9 has its size too.
                rng = np.random.default_rng([i + shift, ord(name)])
                side = 8 + i + shift + 20 * (name == "b")
                Image.fromarray(rng.integers(0, 256, (side, side), np.uint8)).save(
                    folder / f"{i}.bmp"
                )
    read = []
    stored = Files.stored

    def noted(self, index):
        read.append(self.paths[index])
        return stored(self, index)

    monkeypatch.setattr(Files, "stored", noted)
    [text] = told(f"imagefolder:{tmp_path}")
    assert "2 of 8 examples of split 'test' are in 'train'" in text
    assert {p.relative_to(tmp_path).as_posix() for p in read} == {
        "train/a/3.bmp", "test/a/0.bmp", "train/b/3.bmp", "test/b/0.bmp",
    }  # fmt: skip


def test_what_is_large_is_not_compared(monkeypatch) -> None:
    x, y = numbers("abab")
    same = load_task(x, y)
    both = replace(same, splits={**same.splits, "test": same["train"]})
    assert repeats(both)
    monkeypatch.setattr(loading, "_MOST_BYTES", 100)
    assert not repeats(both)
    monkeypatch.undo()
    monkeypatch.setattr(loading, "_MOST_EXAMPLES", 7)
    assert not repeats(both)


def test_nothing_is_decoded_or_run_to_compare() -> None:
    class Counted(Dataset):
        targets = (0, 1) * 100
        fetched = 0

        def __len__(self) -> int:
            return 200

        def __getitem__(self, index: int):
            Counted.fetched += 1
            return torch.full((3,), float(index)), self.targets[index]

    assert not told({"train": Counted(), "test": Counted()})
    assert Counted.fetched < 200, "labels are taken from where they are kept"
    stream = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (5, 5), np.uint8)).save(stream, "PNG")
    lazy = [Image.open(io.BytesIO(stream.getvalue())) for _ in range(4)]
    load_task({"train": (lazy, [0, 1, 0, 1]), "test": (lazy[:2], [0, 1])})
    assert all(image.tile for image in lazy[1:]), "what was decoded has no more to decode"


def test_a_task_that_is_loaded_is_not_judged_again() -> None:
    x, y = numbers("abab")
    with pytest.warns(TransferMetricsWarning):
        task = load_task({"train": (x, y), "test": (x, y)})
    assert not told(task)
    assert not told(task, examples=2)


# ---------------------------------------------------------------- inputs that are no inputs


def test_examples_of_two_classes_are_told(tmp_path: Path) -> None:
    """Equal files, a class folder that is linked under another name, and texts."""
    noise_folders(tmp_path, "ant", "bee")
    assert not told(f"imagefolder:{tmp_path}")
    (tmp_path / "emmet").symlink_to(tmp_path / "ant")
    [text] = told(f"imagefolder:{tmp_path}")
    assert "4 of 6 training examples are equal to one of another class" in text
    assert "such as '0.png' of 'ant' and '0.png' of 'emmet'" in text
    [text] = told(["a", "b", "a", "c", "c"], [0, 1, 1, 0, 0])
    assert "2 of 5 training examples" in text
    assert "example 0 of '0' and example 2 of '1'" in text
    assert not told(["a", "b", "a", "c"], [0.5, 1.5, 2.5, 1.5]), "measured twice"
    assert not told(np.zeros((4, 2)), [0, 1, 0, 1]), "few numbers are often equal"


def test_a_column_that_is_the_label_is_told(tmp_path: Path) -> None:
    codes = np.arange(30) % 3
    noise = RNG.normal(size=(30, 2))
    frame = pd.DataFrame(noise, columns=["a", "b"]).assign(code=10 * codes)
    names = np.array(["x", "y", "z"])[codes]
    for labels in (names, codes, pd.Series(names)):
        [text] = told(frame, labels)
        assert "column 'code' of the inputs has one value for each class" in text
    [text] = told(np.c_[noise, 1 - codes % 2], codes % 2)
    assert "column 2 of the inputs" in text
    [text] = told(np.c_[noise, noise[:, 0]], noise[:, 0])
    assert "columns 0, 2 of the inputs have the targets" in text
    frame.assign(label=names).to_csv(tmp_path / "t.csv", index=False)
    assert any("column 'code'" in text for text in told(f"csv:{tmp_path}/t.csv"))
    missing = [None, *names[1:]]
    assert any("column 'code'" in text for text in told(frame, missing)), "of those that are left"
    assert not told(frame.assign(code=codes % 2), names), "one number for two classes"
    almost = frame.assign(code=np.r_[9, codes[1:]])
    assert not told(almost, names)
    with pytest.warns(TransferMetricsWarning, match="column 'code' of the inputs has one value"):
        tm.score(frame, codes, ["knn"])
    with pytest.warns(TransferMetricsWarning, match="column 2 of the inputs has one value"):
        tm.score(torch.tensor(frame.to_numpy()), codes, ["knn"])


def test_columns_of_frames_that_number_the_rows_are_told() -> None:
    frame = pd.DataFrame(RNG.normal(size=(30, 2)), columns=["a", "b"])
    assert not told(frame, np.arange(30) % 2)
    [text] = told(frame.reset_index(names="n"), np.arange(30) % 2)
    assert "column 'n' counts the examples" in text
    some = frame.reset_index(names="Unnamed: 0").sample(frac=0.5, random_state=0)
    [text] = told(some, [0, 1, 1] * 5)
    assert "column 'Unnamed: 0' has the name of an index" in text


def test_cuts_of_one_data_set_that_overlap_are_told() -> None:
    whole = TensorDataset(torch.rand(40, 3), torch.arange(40) % 2)
    cut = {
        "train": Subset(whole, range(30)),
        "test": Subset(Subset(whole, range(20, 40)), range(15)),
    }
    [text] = told(cut)
    assert "10 of 15 examples of split 'test' are in 'train' as well" in text
    assert not told({"train": Subset(whole, range(30)), "test": Subset(whole, range(30, 40))})

"""Samples, held-out tests, folds and VTAB-1k's splits of a task."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning, UnknownNameError
from transfer_metrics.sources.specs import parse_task, with_options
from transfer_metrics.sources.tasks.load_task import load_task
from transfer_metrics.sources.tasks.subtasks import (
    folds,
    hold_out,
    nested_order,
    subsample,
    vtab_1k,
)

COUNTS = [40, 25, 9, 3]


def numbered(counts=COUNTS, **options):
    """A task whose examples say where they stand, classes mixed."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    return load_task(np.arange(len(labels))[:, None] * 1.0, labels.tolist(), **options)


def standing(split) -> list[int]:
    return [int(example[0]) for example in split.examples]


def filled(counts: list[int], total: int) -> list[int]:
    """Equal numbers as far as they go, by handing out one at a time to the class with fewest."""
    given = [0] * len(counts)
    for _ in range(total):
        open_ = [c for c in range(len(counts)) if given[c] < counts[c]]
        given[min(open_, key=lambda c: given[c])] += 1
    return given


@given(st.lists(st.integers(1, 12), min_size=2, max_size=6), st.integers(0, 60), st.integers(0, 5))
def test_balanced_numbers_are_those_of_handing_out(counts, total, seed) -> None:
    total = min(max(total, len(counts)), sum(counts))
    labels = np.repeat(np.arange(len(counts)), counts)
    chosen = nested_order(labels, len(counts), seed, balanced=True)[:total]
    assert len(set(chosen.tolist())) == total
    # Which classes get what is left over is drawn, so numbers are compared and not their classes.
    found = np.bincount(labels[chosen], minlength=len(counts))
    expected = filled(counts, total)
    assert sorted(found.tolist()) == sorted(expected)
    assert (np.abs(found - expected) <= 1).all()


def test_sample_of_a_task() -> None:
    task = numbered()
    with pytest.warns(TransferMetricsWarning, match="10 would be of each class.*'2' 9, '3' 3"):
        part = subsample(task, 40, seed=1)
    assert np.bincount(part["train"].labels).tolist() == [14, 14, 9, 3]
    rows = standing(part["train"])
    assert rows == sorted(rows)
    assert (task["train"].labels[rows] == part["train"].labels).all()
    assert part.classes == task.classes


def test_sample_depends_on_the_seed_only_and_is_nested() -> None:
    few, many, again, other = (
        set(standing(subsample(numbered([30, 30]), n, seed)["train"]))
        for n, seed in ((10, 0), (30, 0), (10, 0), (10, 1))
    )
    assert few == again != other
    assert few < many


def test_every_example_is_as_likely_within_its_class() -> None:
    task = numbered([20, 10])
    drawn = np.zeros(30)
    for seed in range(600):
        drawn[standing(subsample(task, 10, seed)["train"])] += 1
    expected = np.where(task["train"].labels == 0, 5 / 20, 5 / 10) * 600
    # Six standard deviations of a binomial variable.
    assert (np.abs(drawn - expected) < 6 * np.sqrt(600 * 0.25)).all()
    assert np.ptp(drawn[task["train"].labels == 0]) > 0


def test_samples_that_are_no_smaller_or_too_small() -> None:
    task = numbered()
    with pytest.warns(TransferMetricsWarning, match="77 training examples, fewer than the 100"):
        assert subsample(task, 100) is task
    assert subsample(task, 77) is task
    with pytest.raises(InvalidInputError, match=r"3 examples of 4 classes.*examples=4"):
        subsample(task, 3)
    targets = load_task(np.eye(9), np.linspace(0.1, 1, 9))
    assert len(subsample(targets, 4)["train"]) == 4


@pytest.mark.parametrize(
    "use", [lambda task: subsample(task, 9), lambda task: next(folds(task)), vtab_1k]
)
def test_a_name_is_no_task(use) -> None:
    with pytest.raises(InvalidInputError, match=r"a str is no task.*load_task\('sklearn:iris'\)"):
        use("sklearn:iris")
    with pytest.raises(InvalidInputError, match=r"a tuple is no task.*load_task\(X, y\)"):
        use((np.eye(9), np.arange(9) % 3))


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda task: subsample(task, 1.5), "examples=1.5; give a whole number from 1"),
        (lambda task: subsample(task, None), "examples=None"),
        (lambda task: subsample(task, 0), "examples=0"),
        (lambda task: subsample(task, 9, -1), "seed=-1; give a whole number from 0"),
        (lambda task: vtab_1k(task, -1), "seed=-1"),
        (lambda task: next(folds(task, "many")), "k='many'; give a whole number from 1"),
    ],
)
def test_numbers_that_cannot_be(use, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        use(numbered())


def test_sample_of_images_keeps_the_fingerprint_of_their_content() -> None:
    one, same = (load_task("sklearn:digits", examples=50, seed=2)["train"] for _ in range(2))
    assert one.fingerprint == same.fingerprint
    assert one.fingerprint != load_task("sklearn:digits", examples=50, seed=3)["train"].fingerprint


def test_held_out_by_class() -> None:
    task = hold_out(numbered(), "test", 0.2, seed=0)
    assert sorted(standing(task["train"]) + standing(task["test"])) == list(range(77))
    share = np.bincount(task["test"].labels, minlength=4) / COUNTS
    assert len(task["test"]) == 15
    assert (np.abs(share - 0.2) <= 1 / np.array(COUNTS)).all()
    with pytest.raises(InvalidInputError, match="has a split 'test' of 15 examples"):
        hold_out(task, "test", 0.2)
    targets = hold_out(load_task(np.eye(10), np.linspace(0.1, 1, 10)), "test", 0.3)
    assert (len(targets["train"]), len(targets["test"])) == (7, 3)


def words(count=12):
    sentences = [[f"w{i}", "x", "y"] for i in range(count)]
    return load_task(sentences, [["A", "B", "A"] for _ in sentences])


def test_sentences_are_not_torn_apart() -> None:
    task = hold_out(words(), "test", 0.25)
    train, test = ({e.sentence for e in task[s].examples} for s in ("train", "test"))
    assert (len(train), len(test), train & test) == (9, 3, set())
    for fold in folds(words(), 3):
        train, test = ({e.sentence for e in fold[s].examples} for s in ("train", "test"))
        assert (len(train), len(test), train & test) == (8, 4, set())


def test_folds_test_every_example_once() -> None:
    parts = list(folds(numbered([40, 25, 9]), 5, seed=1))
    assert [part.name for part in parts][:2] == ["data, fold 1 of 5", "data, fold 2 of 5"]
    assert sorted(row for part in parts for row in standing(part["test"])) == list(range(74))
    for part in parts:
        assert not set(standing(part["train"])) & set(standing(part["test"]))
        assert np.bincount(part["test"].labels)[0] == 8
    first = standing(next(folds(numbered([40, 25, 9]), 5, seed=1))["test"])
    assert first == standing(parts[0]["test"])
    assert len(list(folds(load_task(np.eye(9), np.linspace(0.1, 1, 9)), 3))) == 3


def test_folds_of_a_rare_class() -> None:
    with pytest.warns(TransferMetricsWarning, match="5 folds: .*least populated"):
        list(folds(numbered(), 5))
    for wrong in (1, 41):
        with pytest.raises(InvalidInputError, match="choose k between 2 and"):
            list(folds(numbered(), wrong))


def test_vtab() -> None:
    task = numbered([900, 300, 50])
    cut = vtab_1k(task, seed=0)
    train, val = standing(cut["train"]), standing(cut["val"])
    assert (len(train), len(val), set(train) & set(val)) == (800, 200, set())
    # Not balanced, as in the benchmark.
    assert np.bincount(cut["train"].labels)[0] > 500
    assert train == standing(vtab_1k(task, seed=0)["train"]) != standing(vtab_1k(task, 1)["train"])
    apart = hold_out(task, "val", 0.2)
    other = vtab_1k(apart)
    assert set(standing(other["val"])) <= set(standing(apart["val"]))
    assert set(standing(other["train"])) <= set(standing(apart["train"]))
    with pytest.raises(InvalidInputError, match=r"1000 examples of split 'train', which has 77"):
        vtab_1k(numbered())


# ---------------------------------------------------------------- as options of a task


def test_options_of_every_task() -> None:
    task = load_task("sklearn:digits?examples=100&seed=4")
    assert np.bincount(task["train"].labels).tolist() == [10] * 10
    by_keyword = load_task("sklearn:digits", examples=100, seed=4)
    loaded = load_task(load_task("sklearn:digits"), examples="100", seed=4)
    assert task["train"].fingerprint == by_keyword["train"].fingerprint
    assert task["train"].fingerprint == loaded["train"].fingerprint
    assert len(task["test"]) == 450
    arrays = numbered(test_size=0.2, examples=8)
    assert (len(arrays["train"]), len(arrays["test"])) == (8, 15)
    assert len(load_task("sklearn:digits?protocol=vtab-1k")["val"]) == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("examples=0", "examples='0'; give a whole number from 1"),
        ("examples=1.5", "examples='1.5'"),
        ("examples=many", "examples='many'"),
        ("examples=50&seed=-1", "seed='-1'"),
        ("test_size=0.2", "has a split 'test'"),
        ("test_size=1", "test_size='1'; give a share"),
        ("test_size=nan", "test_size='nan'"),
        ("protocol=vtab", "vtab-1k"),
        ("protocol=vtab-1k&examples=5", "leave examples out"),
        ("corrupt=ignore", "corrupt='ignore'; say corrupt=error"),
    ],
)
def test_options_that_cannot_be(options: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        load_task(f"sklearn:digits?{options}")


def test_mistyped_option() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'examples'"):
        load_task("sklearn:digits?example=5")
    with pytest.raises(UnknownNameError, match="did you mean 'examples'"):
        load_task(load_task("sklearn:iris"), example=5)


def test_options_are_added_to_a_specification() -> None:
    text = with_options("csv:a b.csv?text=x%26y&examples=5", examples=7, seed=1)
    assert parse_task(text) == (
        "csv",
        "a b.csv",
        {"text": "x&y", "examples": "7", "seed": "1"},
    )

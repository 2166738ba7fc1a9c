"""One rule for labels: which are classes and which targets, wherever they come from."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.datasets import load_diabetes
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

import transfer_metrics as tm
from transfer_metrics.__main__ import main
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning, UnsupportedTaskError
from transfer_metrics.heads.objective import Answers
from transfer_metrics.sources.tasks.label_doubts import doubts
from transfer_metrics.sources.tasks.label_values import as_array, number_of
from transfer_metrics.sources.tasks.labels import encode, kind_of, read_labels

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4))
Y = np.arange(60) % 3
FORMS = {
    "ints": Y,
    "int8": Y.astype(np.int8),
    "uint64": Y.astype(np.uint64),
    "floats": Y.astype(float),
    "half": Y.astype(np.float16),
    "column": Y[:, None],
    "float column": Y[:, None].astype(float),
    "list": Y.tolist(),
    "lists of one": [[int(y)] for y in Y],
    "numpy scalars": list(Y),
    "arrays of one": [np.array([y]) for y in Y],
    "tensor": torch.tensor(Y),
    "float tensor": torch.tensor(Y, dtype=torch.float32),
    "bfloat16": torch.tensor(Y, dtype=torch.bfloat16),
    "tensors": [torch.tensor(int(y)) for y in Y],
    "tensors of one": [torch.tensor([int(y)]) for y in Y],
    "float tensors of one": [torch.tensor([float(y)]) for y in Y],
    "texts": [str(y) for y in Y],
    "texts of floats": [f"{y}.0" for y in Y],
    "bytes": [str(y).encode() for y in Y],
    "series": pd.Series(Y, index=RNG.permutation(60)),
    "frame": pd.DataFrame({"y": Y}),
    "categories": pd.Categorical(Y),
    "nullable": pd.Series(Y, dtype="Int64"),
    "decimals": [Decimal(int(y)) for y in Y],
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_classes_in_any_form(form: str) -> None:
    given = FORMS[form]
    task = tm.load_task(X, given)
    assert (task.kind, task.classes) == ("classification", ("0", "1", "2"))
    assert task["train"].labels.tolist() == Y.tolist()
    kind, numbers = read_labels(given)
    assert (kind, numbers.tolist()) == ("classification", Y.tolist())
    assert tm.knn(X, given) == tm.knn(X, Y)
    assert tm.score(X, given, "logme").records[0]["value"] == pytest.approx(float(tm.logme(X, Y)))
    target = tm.load_task(X, given, kind="regression")
    assert (target.kind, target["train"].labels.tolist()) == ("regression", Y.tolist())
    expected = tm.score(X, Y, "logme", kind="regression").records[0]["value"]
    assert tm.score(X, given, "logme", kind="regression").records[0]["value"] == expected
    assert expected != pytest.approx(float(tm.logme(X, Y)))


@pytest.mark.parametrize("form", [bool, str, np.bool_])
def test_booleans_and_names(form) -> None:
    labels = [form(y == 1) for y in Y]
    task = tm.load_task(X, labels)
    assert task.classes == ("False", "True")
    assert task["train"].labels.tolist() == (Y == 1).tolist()


@pytest.mark.parametrize("make", [list, np.array, torch.tensor])
def test_what_is_not_whole_is_measured(make) -> None:
    labels = make([float(y) / 2 for y in Y])
    assert tm.load_task(X, labels).kind == "regression"
    assert read_labels(labels)[0] == "regression"
    named = tm.load_task(X, labels, kind="classification")
    assert named.classes == ("0", "0.5", "1")
    with pytest.raises(InvalidInputError, match="continuous"):
        tm.leep(np.full((60, 3), 1 / 3), labels)


MANY = RNG.choice(5000, size=(2, 150), replace=False)
KINDS = [
    # Ages: nearly all between the least and the greatest occur.
    (np.arange(300) % 60 + 18, "classification"),
    (np.arange(30), "classification"),
    # Codes with gaps, ten examples each, and with fewer than ten.
    (np.repeat(MANY[0], 10), "classification"),
    (np.repeat(MANY[0], 9), "regression"),
    (MANY[0], "regression"),
    (np.repeat(MANY[0][:20], 2), "classification"),
    (load_diabetes().target, "regression"),
]


@pytest.mark.filterwarnings("ignore:.*taken for classes")
@pytest.mark.parametrize(("labels", "kind"), KINDS)
def test_whole_numbers_in_every_type_are_of_one_kind(labels, kind: str) -> None:
    whole = labels.astype(int)
    forms = [whole, whole.astype(float), list(map(str, whole)), [f"{v}.0" for v in whole]]
    forms += [torch.tensor(whole), whole[:, None], whole.tolist()]
    assert {kind_of({"train": form}) for form in forms} == {kind}
    assert {read_labels(form)[0] for form in forms} == {kind}
    assert {encode({"train": form})[0] for form in forms} == {kind}


@pytest.mark.parametrize(
    ("texts", "classes"),
    [
        (["1_1", "11", "2"], ("11", "1_1", "2")),
        (["007", "7", "2"], ("007", "2", "7")),
        (["1e3", "1000", "2"], ("1000", "1e3", "2")),
        (["1", "1.0"], ("1", "1.0")),
        (["+1", "1"], ("+1", "1")),
        (["-1", "+1"], ("+1", "-1")),
        ([" 1", "1"], (" 1", "1")),
        (["-0", "0"], ("-0", "0")),
        (["1.0", "1.00"], ("1.0", "1.00")),
        (["0x1", "1"], ("0x1", "1")),
        (["1L", "1"], ("1", "1L")),
        (["١", "1"], ("1", "١")),
        (["9007199254740993", "9007199254740992"], ("9007199254740992", "9007199254740993")),
        (["18446744073709551616", "-1"], ("-1", "18446744073709551616")),
        (["007", "008"], ("007", "008")),
        (["10", "9"], ("9", "10")),
        (["10.0", "9.0"], ("9", "10")),
        (["True", "true"], ("True", "true")),
        (["a", "a\0"], ("a", "a\0")),
    ],
)
def test_text_is_a_number_where_it_reads_back(texts, classes) -> None:
    for labels in (texts * 3, np.array(texts * 3, object)):
        kind, numbers, names = encode({"train": labels})
        assert (kind, names) == ("classification", classes)
        found = [names[i] for i in numbers["train"]]
        assert found == [t if t in classes else t.removesuffix(".0") for t in labels]


@given(
    st.lists(
        st.one_of(
            st.text(alphabet="0123456789+-._e x", max_size=5),
            st.integers(-200, 200).map(str),
            st.floats(allow_nan=False).map(str),
        ),
        min_size=2,
        max_size=20,
    )
)
def test_different_texts_stay_different_classes(texts: list[str]) -> None:
    texts = [t for t in texts if t.strip()]
    if len(set(texts)) < 2:
        return
    kind, numbers, names = encode({"train": texts}, "classification")
    assert kind == "classification"
    assert len(names) == len(set(names)) == len(set(texts))
    for text, number in zip(texts, numbers["train"], strict=True):
        assert names[number] == text or number_of(names[number]) == number_of(text)


@pytest.mark.parametrize(
    "texts", [["1e3", "0.5", "2"], ["1.50", "2.25", "10"], [" 0.5", "1"], ["+0.5", "-1", ".25"]]
)
def test_targets_in_any_notation(texts: list[str]) -> None:
    kind, numbers, _ = encode({"train": texts})
    assert kind == "regression"
    assert numbers["train"].tolist() == [float(t) for t in texts]
    assert set(encode({"train": texts}, "classification")[2]) == set(texts)


@pytest.mark.parametrize("texts", [["1_1", "0.5"], ["0.5", "x"], ["0x1", "2"], ["0.5", "1,5"]])
def test_regression_needs_numbers(texts: list[str]) -> None:
    with pytest.raises(InvalidInputError, match="regression needs numbers"):
        encode({"train": texts}, "regression")
    assert encode({"train": texts})[0] == "classification"


def test_infinite_targets_are_refused() -> None:
    for labels in ([0.5, float("inf"), 1.0], ["0.5", "inf", "1"], [1.0, float("inf"), 2.0]):
        with pytest.raises(InvalidInputError, match="infinite"):
            encode({"train": labels})


def test_splits_are_read_alike() -> None:
    kind, numbers, names = encode({"train": ["1", "2"], "test": ["007", "1"]})
    assert (kind, names) == ("classification", ("007", "1", "2"))
    assert numbers["test"].tolist() == [0, 1]
    assert encode({"train": [1, 2], "test": [1.0, 2.0]})[2] == ("1", "2")


def test_named_classes() -> None:
    assert encode({"train": ["1", "0"]}, classes=["b", "a"])[1]["train"].tolist() == [1, 0]
    # Texts that are names are names, not numbers of names.
    assert encode({"train": ["1", "0"]}, classes=["1", "0"])[1]["train"].tolist() == [0, 1]
    assert encode({"train": [1.0, 0.0]}, classes=["b", "a"])[1]["train"].tolist() == [1, 0]


def test_several_numbers_per_example() -> None:
    hot = np.eye(3)[Y]
    for form in (hot, hot.astype(int), hot.astype(bool), hot.tolist(), torch.tensor(hot)):
        assert kind_of({"y": form}) == "multilabel"
        with pytest.raises(
            InvalidInputError, match=r"labels\.argmax\(1\).*'multilabel'.*'regression'"
        ):
            tm.load_task(X, form)
        assert tm.load_task(X, form, kind="regression")["train"].labels.shape == (60, 3)
        assert tm.load_task(X, form, kind="multilabel")["train"].labels.shape == (60, 3)
        for use in (tm.score, tm.knn, tm.LinearProbe().fit, tm.GroupLassoSelector().fit):
            with pytest.raises(InvalidInputError, match=r"labels\.argmax\(1\)"):
                use(X, form)
        found = tm.score(X, form, "*", kind="multilabel").metrics
        assert set(found) == {"logme", "knn", "ridge_probe"}
    for form in (hot * 2, (hot * 2).astype(int), hot + 0.5):
        assert kind_of({"y": form}) == "regression"
        assert tm.load_task(X, form).kind == "regression"


def test_metrics_of_one_kind_know_which() -> None:
    assert tm.svd_regression(X, Y) == tm.svd_regression(X, Y.astype(float), kind="regression")
    targets = load_diabetes().target[:60]
    assert tm.lda(X[:, :2], np.r_[targets[:30], targets[:30]]) == tm.lda(
        X[:, :2], np.r_[targets[:30], targets[:30]].astype(int).astype(str), kind="classification"
    )
    with pytest.raises(UnsupportedTaskError, match="classification, not regression"):
        tm.lda(X, Y, kind="regression")
    with pytest.raises(InvalidInputError, match="missing labels, the first at row 1"):
        tm.knn(X, ["a", "NA", *["b"] * 58])
    with pytest.raises(InvalidInputError, match="kind 'ranking'"):
        tm.score(X, Y, kind="ranking")


def doubts_of(labels: object) -> list[str]:
    return doubts({"train": labels}, kind_of({"train": labels}))


def test_doubts_name_the_cure() -> None:
    assert doubts_of(Y) == doubts_of(Y / 2) == []
    [doubt] = doubts_of(load_diabetes().target)
    assert "214 different whole numbers" in doubt
    assert "kind=classification" in doubt
    [doubt] = doubts_of(["1.1", "1.10", "2"])
    assert "'1.1' and '1.10' are one number" in doubt
    with pytest.warns(TransferMetricsWarning, match="say kind=classification"):
        task = tm.load_task(np.eye(442), load_diabetes().target)
    assert "kind=classification" in task.understood.suspicions[0]
    said = tm.load_task(np.eye(442), load_diabetes().target, kind="regression")
    assert said.understood.suspicions == ()


@pytest.mark.parametrize("odd", ["?", "-", "missing"])
@pytest.mark.parametrize("numbers", [np.arange(40) / 8, np.arange(40) % 5 + 1])
@pytest.mark.parametrize("form", [str, float])
def test_a_text_among_numbers_is_doubted(odd: str, numbers: np.ndarray, form) -> None:
    labels: list = [form(n) for n in numbers]
    labels[7] = odd
    labels[3] = ""  # which is left out, and no reason to count otherwise
    with pytest.warns(TransferMetricsWarning) as caught:
        task = tm.load_task(np.eye(40), labels)
    [doubt] = [d for d in task.understood.suspicions if repr(odd) in d]
    assert "the first in row 8 of train" in doubt
    assert "leave such labels empty" in doubt
    assert any(doubt in str(warning.message) for warning in caught)
    with pytest.warns(TransferMetricsWarning, match="numbers but for"):
        read_labels([y for y in labels if y != ""])
    assert doubts_of(numbers) == []
    assert doubts_of([*"0123456789", *"abc"] * 3) == []
    assert doubts_of(["1", "2"] * 4 + ["x"]) == []


def test_classes_of_one_name_are_refused() -> None:
    mixed = [i % 2 if i % 4 < 2 else str(i % 2) for i in range(40)]
    for use in (
        lambda: encode({"train": mixed}),
        lambda: tm.load_task(np.eye(40), mixed),
        lambda: read_labels(mixed),
        lambda: tm.knn(RNG.normal(size=(40, 3)), mixed),
        lambda: tm.score(RNG.normal(size=(40, 3)), mixed, "knn"),
        lambda: encode({"train": [0, 1, 7], "test": ["007", "1"]}),
    ):
        with pytest.raises(InvalidInputError, match=r"different types int and str; use one"):
            use()
    # Texts of one split that are the numbers of another are these.
    for train, test in (([0, 1, 1], ["1", "0"]), (["0", "1", "1"], np.array([1, 0]))):
        _, numbers, names = encode({"train": train, "test": test})
        assert names == ("0", "1")
        assert numbers["train"].tolist() == [0, 1, 1]
        assert numbers["test"].tolist() == [1, 0]
    kind, numbers, _ = encode({"train": [0.5, 1.0], "test": ["0.25"]})
    assert (kind, numbers["test"].tolist()) == ("regression", [0.25])


def test_names_of_one_sign_that_are_equal_are_doubted() -> None:
    with pytest.warns(TransferMetricsWarning, match="differ only by case"):
        tm.load_task(X, Y, classes=["a", "b", "b"])
    assert tm.load_task(X, Y, classes=["a", "b", "B"]).understood.suspicions == ()


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8)])
def test_labels_that_are_masks(shape: tuple[int, ...]) -> None:
    masks = torch.zeros(12, *shape, dtype=torch.long)
    images = torch.rand(12, 3, 8, 8)
    for spec in (TensorDataset(images, masks), (images, masks), (images, list(masks))):
        with pytest.raises(InvalidInputError, match=r"the shape .*, as masks have; give one label"):
            tm.load_task(spec)
    with pytest.raises(InvalidInputError, match="as masks have"):
        tm.score(np.ones((12, 3)), masks)


class TooLong(Dataset):
    """Three items that claim to be eighty."""

    def __len__(self) -> int:
        return 80

    def __getitem__(self, index: int):
        return torch.ones(2), [0, 1, 0][index]


def test_containers_that_would_lose_something() -> None:
    for make in (sparse.csr_matrix, sparse.coo_array):
        for use in (
            lambda x: tm.load_task(x, Y),
            lambda x: tm.load_task({"train": (x, Y), "test": (X, Y)}),
            lambda x: tm.score(x, Y),
            lambda x: tm.knn(x, Y),
        ):
            with pytest.raises(InvalidInputError, match=r"sparse matrix .* give X\.toarray\(\)"):
                use(make(X))
    masked = np.ma.masked_array(X, X > 1.5)
    first = int(np.argwhere(X > 1.5)[0][0])
    for use in (lambda x: tm.load_task(x, Y), lambda x: tm.score(x, Y), lambda x: tm.knn(x, Y)):
        with pytest.raises(InvalidInputError, match=f"are masked, the first in row {first};"):
            use(masked)
        use(np.ma.masked_array(X))  # of which nothing is masked
    with pytest.raises(InvalidInputError, match="labels are masked"):
        tm.load_task(X, np.ma.masked_array(Y, Y == 2))
    with pytest.raises(
        InvalidInputError, match=r"example 3 cannot be read .*correct its __len__, which is 80"
    ):
        tm.load_task(TooLong())


# ---------------------------------------------------------------- what is missing


ABSENT = ["NA", "N/A", "nan", "NaN", "null", "None", "NULL", "<NA>", "", " ", None, float("nan")]


@pytest.mark.parametrize("absent", ABSENT)
@pytest.mark.parametrize("others", [[0.5, 1.5, 2.5], ["a", "b", "a"], [3, 4, 3], ["3", "4", "3"]])
def test_absent_labels_are_left_out(absent, others: list) -> None:
    labels = [others[0], absent, *others[1:]]
    with pytest.warns(TransferMetricsWarning, match="left out 1 of 4 examples"):
        task = tm.load_task(np.eye(4), labels)
    plain = tm.load_task(np.eye(4)[[0, 2, 3]], others)
    assert (task.kind, task.classes) == (plain.kind, plain.classes)
    assert np.array_equal(task["train"].labels, plain["train"].labels)
    assert np.array_equal(np.stack(list(task["train"].examples)), np.eye(4)[[0, 2, 3]])
    assert task.understood.left_out == (("1 of 4 train examples", "no label"),)


def test_a_class_of_the_name_none() -> None:
    labels = ["None", "Brick", "Stone", "None", ""]
    with pytest.warns(TransferMetricsWarning, match=r"left out 3 of 5.*'None' .*missing=keep"):
        assert tm.load_task(np.eye(5), labels).classes == ("Brick", "Stone")
    with pytest.warns(TransferMetricsWarning, match="left out 1 of 5"):
        kept = tm.load_task(np.eye(5), labels, missing="keep")
    assert kept.classes == ("Brick", "None", "Stone")
    with pytest.raises(InvalidInputError, match="3 labels are missing"):
        tm.load_task(np.eye(5), labels, missing="error")


def test_ignored_numbers_are_missing_in_any_type() -> None:
    for labels in (
        [0, -100, 1],
        [0.0, -100.0, 1.0],
        ["0", "-100", "1"],
        torch.tensor([0, -100, 1]),
    ):
        with pytest.warns(TransferMetricsWarning, match="left out 1 of 3"):
            assert tm.load_task(np.eye(3), labels).classes == ("0", "1")


# ---------------------------------------------------------------- datasets of torch


class Items(Dataset):
    """Returns one thing, keeps another."""

    def __init__(self, returned, **kept) -> None:
        self.returned, self.fetched = returned, 0
        vars(self).update(kept)

    def __len__(self) -> int:
        return len(self.returned)

    def __getitem__(self, index: int):
        self.fetched += 1
        return torch.full((4,), float(index)), self.returned[index]


def test_kept_labels_that_are_remapped() -> None:
    fine = [i % 5 for i in range(21)]
    coarse = [{0: 0, 1: 1, 2: 1, 3: 3, 4: 3}[i] for i in fine]
    names = list("abcde")
    task = tm.load_task(Items(coarse, targets=fine, classes=names))
    # The names are those of other labels.
    assert task.classes == ("0", "1", "3")
    assert [task.classes[i] for i in task["train"].labels] == list(map(str, coarse))
    believed = tm.load_task(Items(fine, targets=fine, classes=names))
    assert believed.classes == tuple(names)


def test_a_single_class_that_is_remapped_is_seen() -> None:
    kept = np.zeros(5000, int)
    kept[1::2] = 1
    kept[1234] = 2
    returned = np.where(kept == 2, 0, kept).tolist()
    data = Items(returned, targets=kept)
    assert tm.load_task(data).classes == ("0", "1")
    whole = Items(kept.tolist(), targets=torch.tensor(kept))
    assert tm.load_task(whole).classes == ("0", "1", "2")
    assert whole.fetched <= 64


@pytest.mark.parametrize("kept", [pd.Series(Y, index=range(60, 0, -1)), torch.tensor(Y), list(Y)])
def test_kept_labels_in_any_container(kept) -> None:
    data = Items(Y.tolist(), targets=kept)
    assert tm.load_task(data)["train"].labels.tolist() == Y.tolist()
    part = Subset(Subset(data, [3, 1, 5, 7]), [2, 0, 1])
    assert [int(part[i][1]) for i in range(3)] == [2, 0, 1]
    assert tm.load_task(part).classes == ("0", "1", "2")
    assert tm.load_task(part)["train"].labels.tolist() == [2, 0, 1]


def test_target_transforms_and_cuts() -> None:
    data = Items([y // 2 for y in Y], targets=Y, target_transform=lambda y: y // 2)
    data.classes = ["a", "b", "c"]
    assert tm.load_task(data).classes == ("0", "1")
    assert tm.load_task(Subset(data, range(2, 9))).classes == ("0", "1")
    both = ConcatDataset([Items([5, 5], targets=[0, 0]), Items([6, 6], targets=[0, 0])])
    assert tm.load_task(both).classes == ("5", "6")
    odd = Items(Y.tolist(), targets=dict.fromkeys(range(60), 0), labels="x" * 60)
    assert tm.load_task(odd)["train"].labels.tolist() == Y.tolist()


def test_labels_of_shape_one() -> None:
    column = TensorDataset(torch.tensor(X), torch.tensor(Y)[:, None])
    floats = TensorDataset(torch.tensor(X), torch.tensor(Y)[:, None].float())
    for data in (column, floats, Items([torch.tensor([int(y)]) for y in Y], targets=Y)):
        task = tm.load_task(data)
        assert (task.kind, task.classes) == ("classification", ("0", "1", "2"))


# ---------------------------------------------------------------- files and the command line


def test_every_loader_of_arrays(tmp_path: Path) -> None:
    for name, y in {
        "f": Y.astype(float),
        "i": Y,
        "s": Y.astype(str),
        "c": Y[:, None] * 1.0,
    }.items():
        np.savez(tmp_path / f"{name}.npz", X=X, y=y)
        task = tm.load_task(f"npz:{tmp_path}/{name}.npz")
        assert (task.kind, task.classes) == ("classification", ("0", "1", "2"))
        assert (task.understood.label, task.understood.inputs) == ("y", ("x",))
        asked = tm.load_task(f"npz:{tmp_path}/{name}.npz?kind=regression")
        assert asked.kind == "regression"
    np.savez(tmp_path / "g.npz", X=X, y=Y, groups=Y)
    left = tm.load_task(f"npz:{tmp_path}/g.npz").understood.left_out
    assert left == (("array 'groups'", "it is not read"),)
    torch.save({"X": torch.tensor(X), "y": torch.tensor(Y)[:, None].float()}, tmp_path / "t.pt")
    assert tm.load_task(f"torch:{tmp_path}/t.pt").classes == ("0", "1", "2")
    datasets = pytest.importorskip("datasets")
    for y in (Y, Y.astype(float), Y.astype(str)):
        data = datasets.Dataset.from_dict({"a": X[:, 0], "b": X[:, 1], "Target": y})
        task = tm.load_task(data)
        assert (task.kind, task.classes) == ("classification", ("0", "1", "2"))
        assert (task.understood.label, task.understood.inputs) == ("Target", ("a", "b"))


def run(capsys, *argv) -> tuple[int, str, str]:
    status = main([str(a) for a in argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_score_reads_labels_as_tasks_are_read(capsys, tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", X)
    found = {}
    for name, y in {"i": Y, "f": Y.astype(float), "s": Y.astype(str), "c": Y[:, None]}.items():
        np.save(tmp_path / f"{name}.npy", y)
        argv = ["score", "--features", tmp_path / "X.npy", "--labels", tmp_path / f"{name}.npy"]
        argv += ["--metrics", "knn,logme"]
        status, out, err = run(capsys, *argv)
        said = "classification of features, 60 examples (3 classes of 20)\n"
        assert (status, err.partition("next: ")[0]) == (0, said)
        found[name] = out
        status, out, err = run(capsys, *argv[:-1], "logme", "--kind", "regression", "--json")
        assert status == 0
        assert (
            err.partition("next: ")[0] == "regression of features, 60 examples (targets 0 to 2)\n"
        )
        expected = float(tm.logme(X, Y, kind="regression"))
        assert json.loads(out)[0]["value"] == pytest.approx(expected)
    assert len(set(found.values())) == 1


def test_kind_on_verbs_that_take_a_task(capsys, tmp_path: Path) -> None:
    rows = "".join(f"{a},{b},{y}\n" for (a, b, *_), y in zip(X, Y, strict=True))
    (tmp_path / "t.csv").write_text(f"a,b,label\n{rows}")
    spec = f"csv:{tmp_path}/t.csv"
    assert run(capsys, "list", "tasks", spec)[1].startswith("classification")
    assert run(capsys, "list", "tasks", spec, "--kind", "regression")[1].startswith("regression")
    assert run(capsys, "list", "tasks", f"{spec}?kind=regression")[1].startswith("regression")
    texts = tmp_path / "p.csv"
    texts.write_text("image,label\n" + "".join(f"{i}.png,{i % 3}\n" for i in range(9)))
    from PIL import Image

    for i in range(9):
        Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(tmp_path / f"{i}.png")
    argv = ["--model", "zoo:cnn-mnist", "--task", f"csv:{texts}", "--kind", "regression", "--quiet"]
    status, out, err = run(capsys, "layers", *argv, "--metrics", "logme", "--json")
    assert (status, {r["num_classes"] for r in json.loads(out)}) == (0, {0}), err
    status, out, err = run(capsys, "train", *argv, "--out", tmp_path / "head")
    assert (status, out) == (0, "the task has no split to test on\n"), err
    assert tm.load_head(tmp_path / "head").kind_ == "regression"
    status, _, err = run(capsys, "layers", "--store", tmp_path, "--kind", "regression")
    assert (status, "leave --kind out" in err) == (2, True)
    status, _, err = run(capsys, "report", tmp_path / "x.jsonl", "--kind", "regression")
    assert (status, "--kind says what the labels of --task are" in err) == (2, True)


def test_as_array_keeps_everything_apart() -> None:
    assert as_array([1, 2**63, -1]).dtype == object
    assert as_array(["a\0", "a"]).tolist() == ["a\0", "a"]
    assert as_array(np.array([b"\xff", b"\xfe"])).tolist() == ["\\xff", "\\xfe"]
    assert as_array([[1, 2], [3, 4]]).dtype.kind == "i"


LOST = np.where(Y == 0, -100, Y)


@pytest.mark.parametrize(
    "labels",
    [
        LOST,
        LOST.astype(float),
        torch.tensor(LOST),
        [str(label) for label in LOST],
        pd.Series(LOST).where(Y > 0, pd.NA).astype("Int64"),
        [None if label < 0 else f"c{label}" for label in LOST],
        ["" if label < 0 else f"c{label}" for label in LOST],
        ["nan" if label < 0 else f"c{label}" for label in LOST],
    ],
)
def test_what_is_missing_to_a_task_is_refused_by_all_who_read_arrays(labels) -> None:
    with pytest.warns(TransferMetricsWarning, match="left out"):
        assert len(tm.load_task(X, labels)["train"]) == (Y > 0).sum()
    for use in (
        tm.knn,
        lambda X, y: tm.score(X, y, "knn"),
        tm.LinearProbe().fit,
        tm.LayerSelector("knn").fit,
        tm.GroupLassoSelector().fit,
        lambda X, y: tm.LinearProbe().fit(X, Y, validation=(X, y)),
        tm.LinearProbe().fit(X, Y).score,
    ):
        with pytest.raises(ValueError, match=r"missing labels|NaN|NAType"):
            use(X, labels)


def test_minus_one_and_targets_of_minus_hundred_stay() -> None:
    assert tm.knn(X, Y - 1) == tm.knn(X, Y)
    targets = np.where(Y == 0, -100.0, X[:, 0])
    assert tm.load_task(X, targets)["train"].labels.min() == -100
    assert tm.knn(X, targets) == tm.knn(X, targets, kind="regression")
    assert tm.knn(X, LOST, kind="regression") < 1
    # What is missing makes no targets of many classes, which lie far from it.
    many = np.r_[np.repeat(np.arange(60), 2), np.full(5, -100)]
    with pytest.warns(TransferMetricsWarning, match="left out 5"):
        assert tm.load_task(np.eye(125), many).kind == "classification"


def test_examples_of_the_ignored_label_are_left_out_where_asked() -> None:
    kept, chances = Y > 0, np.full((60, 4), 0.25)
    for features, label in ((X, -100), (torch.tensor(X), -100), (pd.DataFrame(X), -100), (X, 0)):
        table = tm.score(
            features, LOST if label else Y, ["knn", "leep"], source=chances, ignore_index=label
        ).to_frame()
        assert table["value"][0] == tm.knn(X[kept], Y[kept])
        assert table["n"].tolist() == [kept.sum()] * 2
    with pytest.raises(InvalidInputError, match="every example has the ignored label"):
        tm.score(X, np.full(60, 7), "knn", ignore_index=7)


def test_rows_of_pandas_in_another_order_are_refused() -> None:
    order = np.random.default_rng(0).permutation(60)
    frame, labels = pd.DataFrame(X), pd.Series(Y)
    moved = labels.iloc[order]
    for use in (
        lambda: tm.knn(frame, moved),
        lambda: tm.score(frame, moved, "knn"),
        lambda: tm.score(X, labels, "leep", source=pd.DataFrame(np.full((60, 2), 0.5)).loc[order]),
        lambda: tm.load_task(frame, moved),
        lambda: tm.load_task({"train": (frame, moved)}),
        lambda: tm.load_task(pd.Series(["a"] * 60), moved),
        lambda: tm.LinearProbe().fit(frame, moved),
        lambda: tm.LinearProbe().fit({"a": frame}, moved),
        lambda: tm.LinearProbe().fit(frame, labels, validation=(frame, moved)),
        lambda: tm.LinearProbe().fit(X, Y).score(X=frame, y=moved),
        lambda: tm.LayerSelector("knn").fit(frame, moved),
    ):
        with pytest.raises(InvalidInputError, match=r"another order.*\.loc\[\w+\.index\]"):
            use()
    same = tm.knn(X, Y)
    assert tm.knn(frame, moved.loc[frame.index]) == same
    assert tm.knn(frame.iloc[order], moved) == tm.knn(X[order], Y[order])
    assert tm.knn(frame.set_axis(order + 100), labels) == same
    assert tm.knn(frame.set_axis(order // 2), labels) == same
    assert tm.knn(X, moved.to_numpy()) == tm.knn(frame, moved.to_numpy())


@pytest.mark.parametrize(
    "form",
    [
        lambda x: pd.DataFrame(x).astype("Float64"),
        lambda x: pd.DataFrame(x).astype({0: "Float64"}),
        lambda x: x.astype(">f8"),
        lambda x: x.astype(object),
        lambda x: x.astype(np.longdouble),
    ],
)
def test_numbers_of_any_container_are_features(form) -> None:
    x = X.astype(float)
    assert tm.knn(form(x), Y) == tm.score(form(x), Y, "knn").records[0]["value"] == tm.knn(x, Y)
    mixed = pd.DataFrame({"a": x[:, 0], "b": x[:, 1] > 0, "c": (10 * x[:, 0]).astype(int)})
    assert tm.knn(mixed, Y) == tm.knn(mixed.to_numpy(float), Y)
    assert tm.load_task(mixed, Y)["train"].labels.tolist() == Y.tolist()


@pytest.mark.parametrize(
    ("features", "told"),
    [
        (lambda: torch.tensor(X).to_sparse(), r"give X\.to_dense\(\)"),
        (lambda: [row[: 1 + i % 2] for i, row in enumerate(X)], "rows of 1 to 2 numbers"),
        (lambda: pd.DataFrame(X).assign(s="a"), "column 's' of row 0 holds 'a'"),
        (lambda: X.astype(str), "values of type <U"),
        (lambda: X.astype("M8[D]"), "values of type datetime64"),
        (lambda: pd.DataFrame(X).to_records(index=False), "structured_to_unstructured"),
        (lambda: (row for row in X), "holds <generator"),
    ],
)
def test_what_are_no_features_is_told_in_words(features, told: str) -> None:
    for use in (tm.knn, lambda X, y: tm.score(X, y, "knn")):
        with pytest.raises(InvalidInputError, match=told):
            use(features(), Y)


def test_messages_name_the_input_and_the_cure() -> None:
    with pytest.raises(InvalidInputError, match=r"source must hold one row .*\(60, Z\)"):
        tm.score(X, Y, "leep", source=np.full((40, 4), 0.25))
    with pytest.raises(InvalidInputError, match=r"frame\.drop\(columns='label'\)"):
        tm.load_task(pd.DataFrame(X).assign(label=Y))
    with pytest.raises(InvalidInputError, match=r"\[d\['image'\] for d in data\]"):
        tm.load_task(Unpaired([{"image": 1, "label": 2}]))
    with pytest.raises(InvalidInputError, match=r"tuple of 3; .*\[d\[1\] for d in data\]"):
        tm.load_task(Unpaired([(1, 2, 3)]))
    with pytest.raises(InvalidInputError, match=r"give a whole number, such as k=5"):
        tm.knn(X, Y, k=3.7)


@pytest.mark.parametrize("kind", [None, "multilabel"])
@pytest.mark.parametrize("labels", [[["a", "b"], ["a"]] * 30, [["a", "b"], ["b", "c"]] * 30])
def test_lists_of_names_as_labels_name_what_makes_them_numbers(labels: list, kind) -> None:
    with pytest.raises(InvalidInputError, match="MultiLabelBinarizer"):
        tm.load_task(X, labels, kind=kind)


class Unpaired(Dataset):
    """Items that are no pairs."""

    def __init__(self, items: list) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int):
        return self.items[index]


def test_complex_labels_are_refused_and_long_floats_are_floats() -> None:
    X = np.eye(6)
    for y in (np.array([0, 1] * 3, complex), [0j, 1j] * 3):
        with pytest.raises(InvalidInputError, match="labels are complex numbers"):
            tm.load_task(X, y)
    assert tm.load_task(X, np.array([0, 1] * 3, np.longdouble)).classes == ("0", "1")


def test_classes_that_a_number_would_rename_stay_texts() -> None:
    assert Answers.of_names(("1", "2"), "classification").classes.tolist() == [1, 2]
    assert Answers.of_names(("0.5", "1"), "classification").classes.tolist() == [0.5, 1]
    for names in (("1.0", "2.0"), ("0.5", "1.0"), ("1", "01"), ("1e3", "2")):
        assert Answers.of_names(names, "classification").classes.tolist() == [*names]


@pytest.mark.parametrize("labels", [set(range(6)), dict.fromkeys(range(6), 1)])
def test_labels_without_an_order_are_refused(labels) -> None:
    with pytest.raises(InvalidInputError, match=f"a {type(labels).__name__}, and not one per"):
        tm.load_task(np.eye(6), labels)


def test_letters_that_differ_by_their_unicode_form_are_told() -> None:
    with pytest.warns(TransferMetricsWarning, match="only by case, space or Unicode form"):
        tm.load_task(np.eye(6), ["é", "e\u0301", "x"] * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tm.load_task(np.eye(6), ["é", "É", "x"] * 2)


# ---------------------------------------------------------------- numbers that mean other classes


class Named(Dataset):
    """Names as labels, numbered by the classes that this data set has."""

    def __init__(self, names: list[str]) -> None:
        self.classes = sorted({*names})
        self.targets = [self.classes.index(name) for name in names]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return np.eye(9)[index], self.targets[index]


def names_of(task, split: str) -> list[str]:
    return [task.classes[code] for code in task[split].labels]


def test_splits_that_number_their_classes_differently_are_read_by_name() -> None:
    train, test = ["ant", "bee", "cow", "bee"], ["cow", "ant", "cow", "dog"]
    with pytest.warns(TransferMetricsWarning, match="'dog', of which 'train' has no"):
        task = tm.load_task({"train": Named(train), "test": Named(test)})
    assert (names_of(task, "train"), names_of(task, "test")) == (train, test)
    task = tm.load_task(
        {"train": Named(train), "test": Subset(Subset(Named(test), [0, 1, 3]), [1, 0])}
    )
    assert names_of(task, "test") == ["ant", "cow"]
    with pytest.raises(InvalidInputError, match="number other classes: ant, bee, cow and ant, cow"):
        tm.load_task(ConcatDataset([Named(train), Named(test)]))
    assert tm.load_task(ConcatDataset([Named(train)] * 2)).classes == ("ant", "bee", "cow")


@pytest.mark.parametrize("words", [False, True])
def test_columns_of_classes_in_another_order_are_read_by_name(words: bool) -> None:
    import datasets

    splits = {}
    for split, names in (("train", ["neg", "pos", "odd"]), ("test", ["pos", "neg"])):
        codes = [0, 1, 1, 0, -100 if words else -1]
        of = datasets.ClassLabel(names=names)
        features = {"text": datasets.Value("string"), "label": of}
        rows: dict = {"text": [f"{split} {i}" for i in range(5)], "label": codes}
        if words:
            rows = {
                "tokens": [text.split() for text in rows["text"]],
                "tags": [[c] * 2 for c in codes],
            }
            text = datasets.Value("string")
            features = {"tokens": datasets.Sequence(text), "tags": datasets.Sequence(of)}
        splits[split] = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task = tm.load_task(datasets.DatasetDict(splits))
    times = 2 if words else 1
    assert names_of(task, "train") == list(np.repeat(["neg", "pos", "pos", "neg"], times))
    assert names_of(task, "test") == list(np.repeat(["pos", "neg", "neg", "pos"], times))


@pytest.mark.parametrize("share", [1.0, 0.9])
def test_probabilities_of_classes_are_no_targets(share: float) -> None:
    y = np.full((60, 3), (1 - share) / 2)
    y[np.arange(60), Y] = share
    for use in (tm.load_task, tm.score, tm.knn):
        with pytest.raises(InvalidInputError, match=r"argmax\(1\)"):
            use(X, y)
    assert tm.load_task(X, y, kind="regression")["train"].labels.shape == (60, 3)
    assert tm.load_task(X, y + 0.1).kind == "regression"


@pytest.mark.parametrize("values", [(-1, 1), (-1, 0, 1), (-1.0, 1.0)])
def test_several_labels_with_minus_one_are_no_targets_by_guess(values):
    """CheXpert has -1 for unknown, others have it for what does not apply."""
    rng = np.random.default_rng(0)
    X, labels = rng.standard_normal((40, 3)), rng.choice(values, (40, 4))
    for read in (tm.score, lambda X, y: tm.load_task((X, y)), tm.LinearProbe().fit):
        with pytest.raises(InvalidInputError, match=r"-1.*y > 0.*kind=regression"):
            read(X, labels)
    assert tm.load_task(X, labels, kind="regression").kind == "regression"
    assert tm.score(X, labels, "logme", kind="regression").records[0]["error"] is None
    assert tm.score(X, labels > 0).metrics


def test_numbers_that_stand_for_no_class_are_doubted_in_arrays() -> None:
    for number in (-1, 255):
        y = np.where(np.arange(60) % 5 == 0, number, Y)
        with pytest.warns(TransferMetricsWarning, match=f"{number} beside 0 to 2"):
            tm.score(X, y, "knn")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tm.score(X, Y - 1, "knn")  # -1, 0 and 1 are often meant
        tm.score(X, np.where(Y == 0, -1, 1), "knn")


def test_features_and_labels_in_the_wrong_order_are_refused() -> None:
    x, y = RNG.normal(size=(40, 3)), np.arange(40) % 2
    for call in (tm.load_task, tm.score, tm.knn, tm.LinearProbe().fit):
        for labels in (y, y[:, None], torch.tensor(y), y == 1):
            with pytest.raises(InvalidInputError, match="seem to be swapped; give the"):
                call(labels, x)
    assert tm.load_task(y.astype(float), x).kind == "regression", "one feature, three targets"


def test_rows_of_pandas_that_share_some_labels_are_told() -> None:
    frame = pd.DataFrame({"a": RNG.normal(size=60), "y": np.arange(60) % 2})
    x, y = frame[["a"]].drop([3, 7])[:40], frame["y"][:40]
    with pytest.warns(TransferMetricsWarning, match="share 38 of 40 row labels .* is '4' in X"):
        tm.load_task(x, y)
    tm.load_task(x, y.to_numpy())
    tm.load_task(x, pd.Series(y.to_numpy(), index=range(100, 140)))


def test_labels_in_columns_of_another_order_are_refused() -> None:
    """As ``get_dummies`` of pandas has them, split by split."""
    y = pd.DataFrame({"cat": [1, 0, 1, 0], "dog": [0, 1, 1, 0]})
    x = RNG.normal(size=(4, 3))
    with pytest.raises(InvalidInputError, match="column 0 is 'cat' in 'train' and 'dog' in 'test'"):
        tm.load_task({"train": (x, y), "test": (x + 1, y[["dog", "cat"]])}, kind="multilabel")


@pytest.mark.parametrize("unit", ["D", "s", "us", "ns"])
def test_dates_are_classes_by_their_names(unit: str) -> None:
    dates = np.array(["2020-01-01", "2021-01-01", "NaT"] * 4, f"datetime64[{unit}]")
    with pytest.warns(TransferMetricsWarning, match="left out 4 of 12"):
        classes = tm.load_task(RNG.normal(size=(12, 3)), dates).classes
    assert classes == ("2020-01-01 00:00:00", "2021-01-01 00:00:00")


@pytest.fixture
def every_warning() -> Iterator[None]:
    """Torch says some things once in a process; here it says them each time."""
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


@pytest.mark.usefixtures("every_warning")
def test_frames_are_read_without_a_word() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 4))
    rows[:, 0] += np.arange(60) % 2
    rows.flags.writeable = False  # as pandas hands arrays out
    with pytest.warns(UserWarning, match="not writable"):
        torch.from_numpy(rows)
    frame, y = pd.DataFrame(rows), pd.Series(np.arange(60) % 2)
    assert tm.knn(frame, y) == tm.knn(rows, y) == tm.knn(rows.copy(), y)
    tm.score(frame, y, "knn,logme")
    tm.LinearProbe(C_grid=(1.0,)).fit(frame, y)


@pytest.mark.parametrize(
    ("column", "told"),
    [
        (["a", "bcd"] * 10, "column 'w' of row 0 holds 'a' of type str; give columns of numbers"),
        (pd.Categorical(["a", "bcd"] * 10), "column 'w' of row 0 holds 'a' of type str"),
        (pd.date_range("2020", periods=20), "column 'w' of row 0 holds Timestamp"),
    ],
)
def test_a_column_of_a_frame_that_holds_no_numbers_is_named(column, told) -> None:
    frame = pd.DataFrame({"v": np.arange(20) % 3 + np.arange(20) / 20, "w": column})
    for use in (tm.knn, tm.score, lambda X, y: tm.load_task((X, y)), tm.LinearProbe().fit):
        with pytest.raises(InvalidInputError) as caught:
            use(frame, np.arange(20) % 2)
        assert told in str(caught.value)


# ---------------------------------------------------------------- just outside of what is usual


def test_tensors_without_plain_numbers_are_refused_and_others_read() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    X = torch.from_numpy(rng.normal(size=(40, 3)) + y[:, None])
    truth = tm.logme(X.numpy(), y)
    flipped = torch.complex(X, -X).conj()  # numbers of which torch only notes that the sign turns
    assert tm.logme(flipped.imag, y) == pytest.approx(truth)
    found = tm.score(flipped.imag, flipped.imag[:, 0] > 0, metrics=["logme"])
    assert found.wide().iloc[0, 0] == pytest.approx(tm.logme(X.numpy(), X.numpy()[:, 0] > 0))
    with warnings.catch_warnings():  # that torch will make some of these otherwise
        warnings.simplefilter("ignore")
        odd = {
            "sparse": X.to_sparse(),
            "nested": torch.nested.nested_tensor([*X]),
            "meta": X.to("meta"),
            "float8": X.to(torch.float8_e4m3fn),
            "quantised": torch.quantize_per_tensor(X.float(), 0.1, 0, torch.qint8),
        }
    for what, tensor in odd.items():
        for read in (tm.load_task, tm.score):
            with pytest.raises(
                InvalidInputError, match=f"X: a .*{what}.* tensor is not read; give"
            ):
                read(tensor, y)
            with pytest.raises(
                InvalidInputError, match=f"y: a .*{what}.* tensor is not read; give"
            ):
                read(X, tensor)


@pytest.mark.parametrize("dtype", ["Int64", "UInt64", "int64[pyarrow]"])
def test_large_whole_numbers_with_one_missing_stay_apart(dtype: str) -> None:
    y = pd.Series([*[2**60, 2**60 + 1] * 5, None], dtype=dtype)
    with pytest.warns(TransferMetricsWarning, match="left out 1 of 11 examples"):
        task = tm.load_task(np.arange(22.0).reshape(11, 2) % 7, y)
    assert task.classes == (str(2**60), str(2**60 + 1))
    few = pd.Series([3, 4, None], dtype=dtype)
    assert [*map(str, as_array(few)[:2])] == ["3", "4"]


def test_labels_of_a_matrix_and_of_a_generator() -> None:
    y = [0, 1, 1, 0]
    assert as_array(np.asmatrix(y).T).tolist() == y
    with pytest.raises(InvalidInputError, match="labels are a generator, and not one per example"):
        tm.score(np.eye(4), (label for label in y))


@pytest.mark.parametrize(("least", "most"), [(18, 80), (1950, 2010)])
def test_ages_and_years_are_doubted_as_classes(least: int, most: int) -> None:
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat(np.arange(least, most), 3))
    told = f"{most - least} different whole numbers, {least} to {most - 1}, as labels are taken for"
    for labels in (y, y.astype(str), y.astype(float)):
        assert [told in text for text in doubts_of(labels)] == [True]
    assert not doubts_of(y - least)
    assert not doubts_of(y - least + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for answer in ({"kind": "regression"}, {"kind": "classification"}):
            tm.load_task(rng.normal(size=(len(y), 2)), y, **answer)
        names = [f"c{i}" for i in range(15_000)]
        for labels in (y, 7 * y):  # named ones are classes, however many numbers are left out
            assert tm.load_task(rng.normal(size=(len(y), 2)), labels, classes=names).num_classes


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("change", ["gap", "rare"])
def test_counts_are_doubted_as_classes(start: int, change: str) -> None:
    """As rings of shells and rented bicycles; classes that are numbered have no gaps."""
    rng = np.random.default_rng(0)
    tidy = start + rng.permutation(np.repeat(np.arange(30), 12))
    counts = tidy[tidy != start + 17] if change == "gap" else np.append(tidy, start + 30)
    told = "taken for classes; say kind=regression if they are measured or counted"
    for labels in (counts, counts.astype(str), counts.astype(float)):
        assert [told in text for text in doubts_of(labels)] == [True]
        with pytest.warns(TransferMetricsWarning, match=told):
            tm.score(rng.normal(size=(len(counts), 2)), labels, "logme")
    skewed = start + np.repeat(np.arange(30), np.arange(2, 32)[::-1])  # a long tail
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for labels in (tidy, skewed):
            tm.score(rng.normal(size=(len(labels), 2)), labels, "logme")
        for kind in ("classification", "regression"):
            tm.score(rng.normal(size=(len(counts), 2)), counts, "logme", kind=kind)


def test_row_labels_that_are_the_same_as_text_are_paired_by_them() -> None:
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(40, 2)))
    y = pd.Series([0, 1] * 20, index=X.index.map(str))
    shuffled = y.iloc[rng.permutation(40)]
    for read in (lambda x, y: tm.score(x, y, "logme"), tm.load_task):
        with pytest.raises(InvalidInputError, match="same row labels in another order") as refused:
            read(X, shuffled)
        assert "give y.rename(str).loc[X.rename(str).index]" in str(refused.value)
        np.testing.assert_array_equal(shuffled.rename(str).loc[X.rename(str).index], y)
        with pytest.raises(InvalidInputError, match="same row labels in another order"):
            read(X.set_axis(y.index), shuffled.set_axis(shuffled.index.map(int)))
        with pytest.warns(TransferMetricsWarning, match="share 20 of 40 row labels"):
            read(X, y.set_axis([*map(str, range(20, 60))]))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read(X, y)
            read(X, y.set_axis([f"row {i}" for i in range(40)]))


def test_texts_that_end_as_names_of_files_are_texts() -> None:
    texts = [f"see file {i}.txt" for i in range(20)]
    with pytest.warns(TransferMetricsWarning, match="end as names of files do, such as 'see file"):
        assert tm.load_task(texts, [0, 1] * 10)["train"].examples[3] == texts[3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tm.load_task([*texts[:14], *["a good film"] * 3, *["a bad one"] * 3], [*[0] * 17, *[1] * 3])
    for names in (
        [f"{i}.txt" for i in range(20)],
        [f"notes/my {i}.txt" for i in range(9)] + ["a.txt"] * 11,
    ):
        with pytest.raises(InvalidInputError, match="texts are names of files"):
            tm.load_task(names, [0, 1] * 10)


@pytest.mark.parametrize(
    "dtype", ["Int64", "UInt8", "boolean", "int64[pyarrow]", "bool[pyarrow]", "category"]
)
@pytest.mark.parametrize("framed", [False, True])
def test_heads_predict_the_labels_that_were_given(dtype: str, framed: bool) -> None:
    """Of whole numbers and booleans of pandas scikit-learn makes floats."""
    y = pd.Series(np.arange(40) % 2, dtype=dtype)
    X = np.random.default_rng(0).normal(size=(40, 3)) + np.arange(40)[:, None] % 2
    head = tm.LinearProbe(C_grid=(1.0,))
    head.fit(X, y.to_frame() if framed else y, validation=(X, y))
    kind = bool if dtype.startswith("bool") else int
    assert head.classes_.tolist() == [0, 1]
    assert {*map(type, [*head.classes_.tolist(), *head.predict(X).tolist()])} == {kind}
    assert head.score(X, y) == (head.predict(X) == y.to_numpy()).mean()


def test_rows_that_repeat_their_labels_in_another_order_are_told() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(40, 2)), index=[*range(20)] * 2, columns=["a", "b"])
    y = pd.Series([0, 1] * 20, index=frame.index)
    shuffled = frame.iloc[rng.permutation(40)]
    with pytest.warns(TransferMetricsWarning, match="same row labels, some .* several times, in a"):
        tm.load_task(shuffled, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tm.load_task(frame, y)
        tm.load_task(shuffled, y.to_numpy())
        tm.load_task(shuffled, y.set_axis([*range(100, 140)]))


@pytest.mark.parametrize("targets", [False, True])
def test_a_column_that_is_one_of_several_labels_is_told(targets: bool) -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=(60, 3)) if targets else rng.integers(0, 2, (60, 3)).astype(float)
    X = rng.normal(size=(60, 4))
    assert not tm.load_task(X, y).understood.suspicions
    X[:, 2] = y[:, 1]
    with pytest.warns(TransferMetricsWarning, match="column 2 of the inputs has the targets"):
        tm.load_task(X, y)


def test_all_labels_of_a_small_dataset_are_compared() -> None:
    class Relabelled(TensorDataset):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x, 0 if index == 37 else int(y)

    data = Relabelled(torch.randn(40, 3), torch.arange(40) % 2)
    data.targets = [int(y) for y in data.tensors[1]]
    wanted = [0 if i == 37 else i % 2 for i in range(40)]
    assert tm.load_task(data)["train"].labels.tolist() == wanted


@pytest.mark.parametrize(
    "fitted",
    [
        tm.LinearProbe(C_grid=(1.0,), max_iter=5),
        tm.Head2Toe(1.0, steps=1),
        tm.GroupLassoSelector(relevance="f_classif"),
        tm.LayerSelector("knn"),
        tm.FeatureMapSelector("fisher", folds=2, repeats=1, shares=(1.0,)),
    ],
    ids=lambda fitted: type(fitted).__name__,
)
def test_counts_are_doubted_wherever_something_is_fitted(fitted: Any) -> None:
    rng = np.random.default_rng(0)
    rings = np.append(rng.permutation(np.repeat(np.arange(30), 12)), [30, 31])
    X = {"a": rng.normal(size=(len(rings), 2)), "b": rng.normal(size=(len(rings), 3))}
    told = "32 different whole numbers, 0 to 31, as labels are taken for classes; say kind=regr"
    for features in (X, X["a"]):
        with pytest.warns(TransferMetricsWarning, match=told):
            fitted.fit(features, rings)
    with warnings.catch_warnings():
        warnings.simplefilter("error", TransferMetricsWarning)
        fitted.fit(X, np.minimum(rings, 29))
        fitted.fit(X, rings, kind="classification")
        if isinstance(fitted, (tm.LinearProbe, tm.Head2Toe)):
            assert fitted.fit(X, rings, kind="regression").kind_ == "regression"
    if isinstance(fitted, tm.FeatureMapSelector):
        with pytest.raises(InvalidInputError, match="FeatureMapSelector is for classes; take Lay"):
            fitted.fit(X, rings, kind="regression")


def test_counts_are_targets_of_a_fit_that_is_told_so() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 4))
    counts = rng.poisson(np.exp(X[:, 0]))
    design = np.column_stack([X, np.ones(200)])
    plain = design @ np.linalg.lstsq(design, counts)[0]
    head = tm.LinearProbe(C_grid=(1e9,)).fit(X, counts, kind="regression")
    np.testing.assert_allclose(head.predict(X).ravel(), plain, rtol=1e-4, atol=1e-4)
    layers = {"noise": rng.normal(size=(200, 4)), "cause": X}
    for metric in ("logme", "ridge_probe"):
        chosen = tm.LayerSelector(metric).fit(layers, counts, kind="regression")
        assert chosen.layers_ == ["cause"]
        assert chosen.score_ == tm.score(X, counts, metric, kind="regression").records[0]["value"]


@pytest.mark.parametrize("owner", [tm.LinearProbe(), tm.LayerSelector("logme")], ids=repr)
def test_a_kind_that_labels_cannot_have_is_refused(owner: Any) -> None:
    X, words = np.eye(4), np.array(["a", "b", "a", "b"])
    with pytest.raises(InvalidInputError, match="regression needs numbers"):
        owner.fit(X, words, kind="regression")
    with pytest.raises(InvalidInputError, match="give 'classification', 'regression'"):
        owner.fit(X, words, kind="regresion")
    network = torch.nn.Sequential(torch.nn.Linear(4, 2))
    store = tm.extract(network, (X.astype(np.float32), words), progress=False)
    with pytest.raises(InvalidInputError, match="a store has a kind"):
        owner.fit(store, kind="regression")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.array([b"ant", b"bee"]), ["ant", "bee"]),
        ([b"ant", b"bee"], ["ant", "bee"]),
        (pd.Series(pd.to_datetime(["2020-01-01 00:00", "2021-06-30 12:00"])),
         ["2020-01-01 00:00:00", "2021-06-30 12:00:00"]),
        ([date(2020, 1, 1), date(2021, 6, 30)], ["2020-01-01", "2021-06-30"]),
    ],
)  # fmt: skip
def test_bytes_and_dates_are_text_to_a_head_as_to_a_task(
    labels: Any, names: list[str], tmp_path: Path
) -> None:
    codes = np.arange(40) % 2
    X = np.random.default_rng(0).normal(size=(40, 3)) + 9 * codes[:, None]
    y = labels[codes] if hasattr(labels, "take") else [labels[c] for c in codes]
    assert tm.load_task(X, y).classes == tuple(names)
    assert tm.score(X, y, ["knn"]).records[0]["num_classes"] == 2
    tm.LinearProbe(C_grid=(1.0,)).fit(X, y).save(tmp_path / "head")
    head = tm.load_head(tmp_path / "head")
    assert head.predict(X).tolist() == [names[c] for c in codes]
    assert head.score(X, y) == 1.0


def test_labels_that_a_head_cannot_keep_are_refused_at_fit() -> None:
    y = pd.Series(pd.cut(np.arange(40) % 2, 2)).astype(object)
    with pytest.raises(InvalidInputError, match=r"labels such as Interval.* give their nam"):
        tm.LinearProbe().fit(np.random.default_rng(0).normal(size=(40, 3)), y)


def test_a_column_of_labels_is_taken_without_a_word() -> None:
    y = np.arange(40) % 2
    X = np.random.default_rng(0).normal(size=(40, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for owner in (tm.LinearProbe(C_grid=(1.0,)), tm.GroupLassoSelector(relevance="f_classif")):
            for features in (X, {"a": X}):
                for column in (y[:, None], pd.DataFrame({"y": y}), [[int(c)] for c in y]):
                    owner.fit(features, column)
        assert tm.LinearProbe(C_grid=(1.0,)).fit(X, y[:, None]).classes_.tolist() == [0, 1]

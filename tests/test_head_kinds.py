"""Heads for targets, several labels, texts and words, against scikit-learn and plain torch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.sparse
import torch
from PIL import Image
from scipy import stats
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    r2_score,
)

import transfer_metrics as tm
from tests import text_models
from transfer_metrics.__main__ import main
from transfer_metrics.errors import InvalidInputError, UnsupportedTaskError
from transfer_metrics.heads.base import HEADS as REGISTERED
from transfer_metrics.heads.base import Head, resolve_head
from transfer_metrics.heads.linear import _path_of
from transfer_metrics.heads.objective import Outcome, quality

MODEL = "zoo:cnn-mnist"
C = (1e-3, 1e-1, 1e1)
PROBE = tm.LinearProbe(C_grid=C)
STEPS = {"steps": 100, "lr": 0.03}
HEADS = {
    "probe": PROBE,
    "head2toe": tm.Head2Toe(layers="blocks", **STEPS),
    "cv": tm.Head2ToeCV({"keep": (0.1, 0.5), "steps": (100,), "lr": (0.03,)}, cv=2),
    "finetune": tm.FineTune(lr=3e-2, epochs=4, batch_size=16, progress=False),
    "lpft": tm.LPFT(C_grid=C, lr=1e-4, epochs=1, progress=False),
    "h2t_ft": tm.FineTune(
        start="head2toe(layers=blocks, steps=100, lr=0.03)", lr=1e-3, epochs=1, progress=False
    ),
}
QUICK = ("probe", "head2toe", "finetune")


def bars(n: int, seed: int) -> tuple[list[Image.Image], np.ndarray, np.ndarray]:
    """Images of a bar, its height and width, and which of four corners are bright."""
    random = np.random.default_rng(seed)
    sizes, corners = random.integers(4, 24, (n, 2)), random.integers(0, 2, (n, 4))
    images = []
    for (height, width), bright in zip(sizes, corners, strict=True):
        pixels = np.zeros((28, 28), np.uint8)
        pixels[2 : 2 + height, 2 : 2 + width] = 120
        for corner, on in enumerate(bright):
            y, x = 21 * (corner // 2), 21 * (corner % 2)
            pixels[y : y + 7, x : x + 7] += np.uint8(120 * on)
        images.append(Image.fromarray(pixels))
    return images, sizes + 1000.5, corners


def task_of(kind: str, columns: int = 2) -> tm.Task:
    parts = {}
    for split, n in (("train", 90), ("test", 60)):
        images, sizes, corners = bars(n, n)
        labels = sizes[:, :columns] if kind == "regression" else corners
        parts[split] = (images, labels)
    return tm.load_task(parts, name=kind)


@pytest.fixture(scope="module")
def tasks():
    return {kind: task_of(kind) for kind in ("regression", "multilabel")}


def test_what_tasks_are(tasks):
    several = tasks["multilabel"]
    assert (several.kind, several.classes, several.num_classes) == ("multilabel", tuple("0123"), 0)
    assert "multilabel of images, train 90 (4 labels: 0 ×" in several.summary
    named = tm.load_task(*bars(9, 0)[::2], classes=["a", "b", "c", "d"])
    assert named.classes == ("a", "b", "c", "d")
    with pytest.raises(InvalidInputError, match="zeros and ones"):
        tm.load_task(np.eye(3), np.eye(3) * 2, kind="multilabel")
    with pytest.raises(InvalidInputError, match="4 labels per example, and 2 names"):
        tm.load_task(*bars(9, 0)[::2], classes=["a", "b"])
    assert tm.load_task(np.eye(3), np.eye(3), kind="multilabel").kind == "multilabel"


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in HEADS]
)
def test_every_head_learns_is_kept_and_predicts(tasks, tmp_path, name, kind):
    task, head = tasks[kind], HEADS[name]
    head = head.fit(MODEL, task)
    truth = task["test"].labels
    logits = head.logits(task)
    r2 = r2_score(truth, logits)
    expected = r2 if kind == "regression" else average_precision_score(truth, logits)
    assert head.score(task) == pytest.approx(expected)
    chance = 0.0 if kind == "regression" else truth.mean()
    assert head.score(task) > chance + (0.1 if name == "finetune" else 0.3)
    head.save(tmp_path / "head")
    again = tm.load_head(tmp_path / "head")
    assert (again.kind_, again.class_names_) == (kind, task.classes)
    np.testing.assert_array_equal(again.predict(task), head.predict(task))
    batch = head._source().get().batch(list(task["test"].examples))
    with torch.no_grad():
        deployed = again.network()(batch).numpy()
    np.testing.assert_allclose(deployed, logits, rtol=1e-4, atol=1e-3)
    if kind == "multilabel":
        np.testing.assert_array_equal(head.predict(task), head.predict_proba(task) > 0.5)
    else:
        with pytest.raises(UnsupportedTaskError, match="no probabilities"):
            head.predict_proba(task)
    other = "regression" if kind == "multilabel" else "multilabel"
    with pytest.raises(InvalidInputError, match=f"fitted on a {kind}, and this is a {other}"):
        head.score(tasks[other])


def test_ridge_is_scikit_learns_at_every_strength():
    x, y = load_diabetes(return_X_y=True)
    targets = np.stack([y, x[:, 0] * 1e3 + 5e5], axis=1)
    train, held = slice(0, 300), slice(300, None)
    std, mean = x[train].std(), x[train].mean()
    path = _path_of("regression", x[train], targets[train], x[held], targets[held], 2, C_grid=C)
    models = [Ridge(alpha=1 / c, tol=1e-12).fit((x[train] - mean) / std, targets[train]) for c in C]
    predicted = [model.predict((x[held] - mean) / std) for model in models]
    scores = [r2_score(targets[held], p) for p in predicted]
    np.testing.assert_allclose(path.scores, scores, rtol=1e-9)
    best = int(np.argmax(scores))
    np.testing.assert_allclose(x[held] @ path.coef.T + path.intercept, predicted[best], rtol=1e-9)
    wide = _path_of(
        "regression", x[:8], targets[:8], x[held], targets[held], 2, C_grid=C[1:2]
    )  # D > N
    std, mean = x[:8].std(), x[:8].mean()
    model = Ridge(alpha=10.0, solver="svd").fit((x[:8] - mean) / std, targets[:8])
    expected = model.predict((x[held] - mean) / std)
    np.testing.assert_allclose(x[held] @ wide.coef.T + wide.intercept, expected, rtol=1e-8)


def test_labels_are_a_logistic_regression_each():
    random = np.random.default_rng(0)
    x = random.normal(size=(120, 5))
    y = (x[:, :3] + random.normal(size=(120, 3)) > 0).astype(int)
    y = np.hstack([y, np.zeros((120, 1), int)])  # a label that nothing has
    head = tm.LinearProbe(C_grid=(0.1,)).fit(x, y)
    scaled = (x - x.mean()) / x.std()
    logits = head.logits(x)
    for label in range(3):
        model = LogisticRegression(C=0.1).fit(scaled, y[:, label])
        np.testing.assert_allclose(logits[:, label], model.decision_function(scaled), atol=2e-3)
    np.testing.assert_allclose(logits[:, 3], np.log(0.5 / 120.5))
    assert head.score(x, y) == pytest.approx(average_precision_score(y[:, :3], logits[:, :3]))


def test_arrays_are_read_by_the_rule():
    x, y = load_diabetes(return_X_y=True)
    head = tm.LinearProbe(C_grid=C).fit(x, y)
    assert (head.kind_, head.classes_.tolist()) == ("regression", [])
    assert head.predict(x).shape == (442,)
    assert tm.LinearProbe(C_grid=C).fit(x, y.astype(int) % 7).kind_ == "classification"
    toe = tm.Head2Toe(keep=0.5, **STEPS).fit({"a": x[:, :5], "b": x[:, 5:]}, np.stack([y, y], 1))
    assert toe.predict({"a": x[:, :5], "b": x[:, 5:]}).shape == (442, 2)
    with pytest.raises(InvalidInputError, match="same target"):
        tm.LinearProbe().fit(x, np.full(442, 0.5))


def test_what_has_no_definition_is_refused_before_anything_is_run(tasks, monkeypatch):
    def no_pass(*_, **__):
        raise AssertionError("a network was run")

    monkeypatch.setattr("transfer_metrics.heads.data.extract", no_pass)
    for options in ({"solver": "proximal"}, {"relevance": "f_classif"}):
        for head in (tm.Head2Toe(**options), tm.Head2ToeCV(head=tm.Head2Toe(**options))):
            with pytest.raises(UnsupportedTaskError, match="tells classes apart"):
                head.fit(MODEL, tasks["regression"])


def test_an_accuracy_of_one_is_not_certain():
    """Sixteen of sixteen are compatible with 81 % (rule of three): the interval says so."""
    truth = np.arange(16) % 2
    error = Outcome.of("classification", np.eye(2)[truth], truth).stderr
    middle = stats.beta(16.5, 0.5).mean()
    assert error == pytest.approx(np.sqrt(middle * (1 - middle) / 18), rel=1e-12)
    assert 0.05 < 1.96 * error < 0.2


def test_standard_errors_are_those_of_repeated_samples():
    random = np.random.default_rng(0)

    def sample() -> tuple[np.ndarray, np.ndarray]:
        truth = random.normal(size=(300, 2))
        return truth + random.normal(size=(300, 2)) * (0.5, 1.0), truth

    for kind in ("regression", "multilabel"):
        drawn = [sample() for _ in range(60)]
        drawn = drawn if kind == "regression" else [(p, (t > 1) * 1) for p, t in drawn]
        spread = np.std([quality(kind, *one) for one in drawn])
        told = np.mean([Outcome.of(kind, *one).stderr for one in drawn[:4]])
        assert told == pytest.approx(spread, rel=0.3)


@pytest.mark.filterwarnings("ignore:.* as well, so a score")
def test_balanced_accuracy_stands_beside_accuracy_where_classes_are_rare():
    logits, codes = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 7 // 3
    assert Outcome.of("classification", logits, codes).balanced == pytest.approx(
        balanced_accuracy_score(codes, logits.argmax(1))
    )
    rows = np.r_[0:60, 100:104]
    images, _, corners = bars(120, 0)
    names = np.where(np.arange(120) >= 100, "rare", np.where(corners[:, 0], "on", "off"))
    part = {"train": rows[::2], "val": rows[1::2], "test": np.r_[60:100, 104:108]}
    parts = {
        split: ([images[i] for i in some], names[some].tolist()) for split, some in part.items()
    }
    task = tm.load_task(parts, name="long tail")
    table = tm.compare(MODEL, task, PROBE, seeds=1, cache="never", progress=False)
    row = table.summary().iloc[0]
    head = tm.LinearProbe(C_grid=C).fit(MODEL, task)
    truth = task["test"].labels
    assert row["balanced_accuracy"] == balanced_accuracy_score(truth, head.predict(task))
    assert "balanced" in table.format()


@pytest.mark.parametrize(
    ("kind", "measure"), [("regression", "r2"), ("multilabel", "average_precision")]
)
def test_comparisons_of_other_tasks(tasks, kind, measure):
    heads = [PROBE, tm.Head2Toe(layers="blocks", **STEPS)]
    ood = {"shifted": tasks[kind]["test"], "again": tasks[kind]}
    table = tm.compare(MODEL, tasks[kind], heads, ood=ood, seeds=1, cache="never", progress=False)
    assert not table.failures
    found = {r["metric"] for r in table.records}
    assert {measure, f"ood_{measure}", "ood_gap", f"val_{measure}"} <= found
    assert "accuracy" not in found
    row = table.summary().iloc[0]
    assert row["test"] == row["shifted"] == row["again"]
    assert 0 < row["± test"] < 0.5
    told = {"r2": "R²", "average_precision": "average precision"}[measure]
    assert f"test, shifted, again: {told}, in per cent" in table.format()
    assert table.plot.comparison().get_xlabel() == f"{told}, %"
    other = tasks["regression" if kind == "multilabel" else "multilabel"]
    with pytest.raises(InvalidInputError, match="do not mean the same"):
        tm.compare(MODEL, tasks[kind], heads, ood={"x": other}, progress=False)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return f"hf:{text_models.save('bert', tmp_path_factory.mktemp('bert'))}"


def test_texts_of_unequal_length_go_through_every_head(bert):
    texts = [f"{'really ' * (i % 9)}{'good' if i % 2 else 'bad'} film {i}" for i in range(60)]
    labels = [i % 2 for i in range(60)]
    task = tm.load_task({"train": (texts[:40], labels[:40]), "test": (texts[40:], labels[40:])})
    texts = texts[40:]
    heads = (
        tm.Head2Toe(steps=50, lr=0.1),
        tm.FineTune(lr=1e-3, epochs=1, progress=False),
        PROBE,
    )
    for head in heads:
        logits = head.fit(bert, task).logits(texts)
        # One at a time and so without padding.
        alone = np.concatenate([head.logits([text]) for text in texts[:9]])
        np.testing.assert_allclose(alone, logits[:9], atol=1e-4)
    assert heads[0].score(task) > 0.9
    assert heads[1].optimizer_ == "adamw"


def test_words_go_through_every_head(bert, tmp_path, capsys):
    texts = [f"{word} {text}" for word in ("So", "well", "oh") for text in text_models.TEXTS]
    sentences = [text.replace(",", "").split() for text in texts]
    tags = [["long" if len(word) > 3 else "short" for word in s] for s in sentences]
    rows = [{"tokens": s, "ner_tags": t} for s, t in zip(sentences, tags, strict=True)]
    path = tmp_path / "ner.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    spec = f"jsonl:{path}?test_size=0.3"
    task = tm.load_task(spec)
    store = tm.extract(bert, task, "last", split="test", progress=False)
    for head in (PROBE, tm.Head2Toe(steps=50, lr=0.1), tm.LPFT(C_grid=C, epochs=0, progress=False)):
        head.fit(bert, task)
        assert head.logits(task).shape == (len(task["test"]), 2)
        right = head.predict(task) == task["test"].labels
        assert head.score(task) == right.mean()
    probe = tm.LinearProbe(C_grid=C).fit(bert, task)
    table = probe.predict_table("dogs do not like rain")
    assert table["example"].tolist() == ["dogs", "do", "not", "like", "rain"]
    new = tm.load_task([["dogs", "do", "not", "like", "rain"]], [[0, 1, 0, 1, 0]])
    expected = probe.predict_proba(new, split="train").max(axis=1)
    np.testing.assert_allclose(table["probability"], expected, atol=1e-6)
    assert len(probe.predict(["dogs do not like rain"])) == 5
    every = tm.load_task([*sentences], [[0 if t == "long" else 1 for t in row] for row in tags])
    told = np.array(["long", "short"])[probe.logits(every, split="train").argmax(axis=1)].tolist()
    for given in (path, str(path), f"{path}?words=tokens", sentences, list(map(tuple, sentences))):
        assert probe.predict(given).tolist() == told
    table = probe.predict_table(path)
    assert table["example"].tolist() == [word for row in sentences for word in row]
    for other in (("dogs", "do not"), tm.load_task(["dogs", "do not"], ["a", "b"])["train"]):
        with pytest.raises(InvalidInputError, match="text"):
            probe.predict(other)
    np.testing.assert_allclose(probe.logits(task), probe.logits(store), atol=1e-4)
    assert (
        main(["train", "--model", bert, "--task", spec, "--out", str(tmp_path / "h"), "--quiet"])
        == 0
    )
    assert (
        f"accuracy on test: {tm.LinearProbe().fit(bert, task).score(task):.4f}"
        in capsys.readouterr().out
    )


def words_of(count: int) -> tuple[list[list[str]], list[list[str]]]:
    """Sentences, and whether each of their words is long."""
    texts = [f"{word} {text}" for word in ("So", "well", "oh") for text in text_models.TEXTS]
    sentences = [text.replace(",", "").split() for text in texts[:count]]
    return sentences, [["long" if len(w) > 3 else "short" for w in s] for s in sentences]


def test_a_head_on_words_that_is_no_mean_of_tokens_is_not_exported(bert, tmp_path):
    task = tm.load_task({"train": words_of(6)})
    for head, why in (
        (tm.Head2Toe(steps=5, lr=0.1), "scales features of words"),
        (tm.LinearProbe(C_grid=C, pool="max"), "by 'max' and not by 'avg'"),
    ):
        with pytest.raises(UnsupportedTaskError, match=why):
            head.fit(bert, task).export(tmp_path / "words.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".pt2", ".onnx"])
def test_a_head_on_words_is_exported_as_one_on_tokens(bert, ending, tmp_path):
    if ending == ".onnx":
        pytest.importorskip("onnxscript")
    sentences, tags = words_of(12)
    task = tm.load_task({"train": (sentences[:8], tags[:8]), "test": (sentences[8:], tags[8:])})
    head = tm.LinearProbe(C_grid=C, layers="blocks").fit(bert, task)
    written = head.export(tmp_path / f"words{ending}")
    assert written.outputs["logits"] == "float32 (N, T, 2)"
    found = written.logits(head.source_.get(), task["test"].examples)
    np.testing.assert_allclose(found, head.logits(task), atol=1e-4)


def test_tables_with_several_columns_of_labels_rank_and_train(tmp_path, capsys):
    images, sizes, corners = bars(60, 3)
    rows = ["image,top left,b,c,d,size"]
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{','.join(map(str, corners[i]))},{sizes[i, 0]}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    spec = f"csv:{tmp_path}/t.csv?image=image&label=top left,b,c,d&test_size=0.3"
    task = tm.load_task(spec)
    assert (task.kind, task.classes) == ("multilabel", ("top left", "b", "c", "d"))
    table = tm.rank_models([MODEL, "zoo:resnet-random"], task, "knn,ridge_probe", progress=False)
    assert not table.failures
    assert {r["metric"] for r in table.records} == {"knn", "ridge_probe"}
    assert table.best() == MODEL or table.ranking()["score"].iloc[0] > 0
    out = tmp_path / "head"
    argv = ["train", "--model", MODEL, "--task", spec, "--out", str(out), "--quiet", "--json"]
    assert main(argv) == 0
    [record] = json.loads(capsys.readouterr().out)
    assert (record["metric"], record["n"]) == ("average_precision", 18)
    assert record["value"] == pytest.approx(tm.load_head(out).score(task))
    two = tm.load_task(f"csv:{tmp_path}/t.csv?image=image&label=size,b")
    assert (two.kind, two["train"].labels.shape) == ("regression", (60, 2))
    with pytest.raises(InvalidInputError, match="there is no column 'e'"):
        tm.load_task(f"csv:{tmp_path}/t.csv?image=image&label=b,e")


# --- arrays that cannot be used -------------------------------------------------------------------

GOOD, TWO = np.random.default_rng(0).normal(size=(40, 4)), np.arange(40) % 2
NANS = np.where(np.eye(40, 4, dtype=bool), np.nan, GOOD)
BAD_ARRAYS = {
    "nan": (NANS, "NaN or infinite"),
    "infinite": (np.where(np.isnan(NANS), np.inf, GOOD), "4 row.s. with NaN or infinite .* row 0"),
    "complex": (GOOD + 1j, "complex"),
    "texts": (np.full((40, 4), "a", dtype=object), "not a numeric array: row 0 holds 'a'"),
    "letters": (np.full((40, 4), "a"), "not a numeric array"),
    "dates": ([[None, {}]] * 40, r"float\(\) argument must be|no number"),
    "ragged": ([[1.0, 2.0], [3.0]] * 20, "rows of 1 to 2 numbers"),
    "no examples": (GOOD[:0], "0 sample|0 examples"),
    "no features": (GOOD[:, :0], r"0 feature|X has 0 features"),
    "one row": (GOOD[0], r"must have shape \(N, D\), not \(4,\)"),
    "maps": (GOOD[:, :, None], r"must have shape \(N, D\), not \(40, 4, 1\)"),
    "nothing": (None, r"must have shape \(N, D\)|no number"),
    "sparse": (scipy.sparse.csr_matrix(GOOD), "[Ss]parse"),
}
BAD_LABELS = {
    "too few": (TWO[:-1], "40 examples and y 39 labels|40 examples but 39 labels"),
    "one class": (TWO * 0, "one class only"),
    "missing": (None, "y is missing"),
    "nan": (np.where(TWO, np.nan, 0.0), "NaN|missing"),
    "complex": (TWO + 1j, "complex"),
    "ragged": ([[1], [2, 3]] * 20, "inhomogeneous"),
}
ON_ARRAYS = {
    "linear_probe": lambda: tm.LinearProbe(C_grid=(1.0,)),
    "head2toe": lambda: tm.Head2Toe(steps=5),
    "head2toe_cv": lambda: tm.Head2ToeCV({"keep": (0.5,)}, cv=2, head=tm.Head2Toe(steps=5)),
}


@pytest.fixture(scope="module")
def fitted() -> dict[str, Head]:
    return {name: make().fit(GOOD, TWO) for name, make in ON_ARRAYS.items()}


@pytest.mark.parametrize("name", ON_ARRAYS)
@pytest.mark.parametrize("bad", BAD_ARRAYS)
def test_arrays_that_cannot_be_used_are_refused_in_words_of_ours(name, bad, fitted) -> None:
    X, message = BAD_ARRAYS[bad]
    with pytest.raises(InvalidInputError, match=message):
        ON_ARRAYS[name]().fit(X, TWO)
    for use in (fitted[name].predict, fitted[name].predict_proba, fitted[name].logits):
        with pytest.raises(InvalidInputError, match=message):
            use(X)
    if bad in ("nan", "infinite", "complex", "texts", "letters"):
        of_layers = ON_ARRAYS[name]().fit({"a": GOOD}, TWO)
        with pytest.raises(InvalidInputError, match="layer 'a'"):
            ON_ARRAYS[name]().fit({"a": X}, TWO)
        with pytest.raises(InvalidInputError, match="layer 'a'"):
            of_layers.predict({"a": X})


@pytest.mark.parametrize("name", ON_ARRAYS)
@pytest.mark.parametrize("bad", BAD_LABELS)
def test_labels_that_cannot_be_used_are_refused_in_words_of_ours(name, bad) -> None:
    y, message = BAD_LABELS[bad]
    for X in (GOOD, {"a": GOOD}):
        with pytest.raises(InvalidInputError, match=message):
            ON_ARRAYS[name]().fit(X, y)


@pytest.mark.parametrize("name", ON_ARRAYS)
def test_another_width_and_too_few_examples_are_refused(name, fitted) -> None:
    for X in (GOOD[:, :3], np.hstack([GOOD, GOOD])):
        with pytest.raises(InvalidInputError, match=f"X has {X.shape[1]} features, but .* 4 feat"):
            fitted[name].predict(X)
    if name != "head2toe":  # which holds nothing out
        with pytest.raises(InvalidInputError, match=r"held out|cannot cut these examples"):
            ON_ARRAYS[name]().fit(GOOD[:2], TWO[:2])


@pytest.mark.parametrize("name", REGISTERED)
def test_a_head_before_a_fit_is_refused_in_words_of_ours(name, tmp_path) -> None:
    head = REGISTERED[name]()
    for use in (head.predict, head.predict_proba, head.decision_function, head.predict_table):
        with pytest.raises(InvalidInputError, match="not fitted yet; call fit") as caught:
            use(GOOD)
        assert isinstance(caught.value, NotFittedError)
    for use in (head.network, lambda: head.score(GOOD, TWO), lambda: head.save(tmp_path / "h"),
                lambda: head.export(tmp_path / "h.onnx")):  # fmt: skip
        with pytest.raises(InvalidInputError, match="not fitted yet; call fit"):
            use()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("make", [lambda: tm.LinearProbe(C_grid=(1.0, 100.0)), tm.Head2Toe])
def test_columns_that_have_names_are_found_by_them_after_loading_too(tmp_path, make):
    """As scikit-learn has it: in another order they are refused, and so they are to validate."""
    x, y = load_iris(return_X_y=True, as_frame=True)
    head = make().fit(x, y)
    head.save(tmp_path / "head")
    loaded = tm.load_head(tmp_path / "head")
    assert (loaded.predict(x) == head.predict(x)).all()
    other = x[x.columns[::-1]]
    for use in (
        head.predict,
        loaded.predict,
        lambda other: tm.LinearProbe(C_grid=(1.0,)).fit(x, y, validation=(other, y)),
    ):
        with pytest.raises(InvalidInputError, match="in the same order as they were in fit"):
            use(other)
    head.fit({"layer": x.to_numpy()}, y)
    assert not hasattr(head, "feature_names_in_")


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ("head2toe(keep='all')", "keep='all'; give a number, such as keep=0.1"),
        ("head2toe(keep=True)", "give a number"),
        ("linear_probe(C_grid=1.0)", "give a list of numbers"),
        ("linear_probe(C_grid='12')", "give a list of numbers"),
        ("linear_probe(max_iter=2.5)", "give a whole number, such as max_iter=200"),
        ("lpft(C_grid=None)", "give a list of numbers"),
        ("finetune(freeze=3)", "give a text or a list of texts"),
        ("linear_probe(max_iter=0)", "max_iter=0; give a whole number from 1 on"),
        ("linear_probe(C_grid=(1.0, 1e999))", "give positive numbers"),
        ("linear_probe(pool=3)", "pool=3; give a name such as 'avg', or a function"),
    ],
)
def test_options_of_another_type_are_told(head, told):
    with pytest.raises(InvalidInputError) as error:
        resolve_head(head).fit("zoo:cnn-mnist", "sklearn:digits?examples=20")
    assert told in str(error.value)


@pytest.mark.parametrize(
    "weights", [np.zeros(150), -np.ones(150), np.ones(3), np.full(150, np.nan)]
)
def test_weights_that_weigh_nothing_are_told(weights):
    x, y = load_iris(return_X_y=True)
    with pytest.raises(InvalidInputError, match="give each a weight from 0 on"):
        tm.LinearProbe(C_grid=(1.0,)).fit(x, y).score(x, y, sample_weight=weights)


def test_validation_features_of_another_kind_of_task_are_refused():
    """R² against numbers of classes would choose a strength that means nothing."""
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    layers = torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)
    network = torch.nn.Sequential(*layers)
    targets, classes = (
        tm.extract(network, tm.load_task(x, y), "last", progress=False)
        for y in (x[:, 0] + 0.5, np.arange(40) % 2)
    )
    probe = tm.LinearProbe(C_grid=(1.0,))
    assert probe.fit(targets, validation=targets).kind_ == "regression"
    with pytest.raises(InvalidInputError, match="fitted on a regression, and this is a classif"):
        probe.fit(targets, validation=classes)

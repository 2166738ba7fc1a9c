"""What heads tell of themselves: what they were fitted on, and whether they learnt anything."""

from __future__ import annotations

import html
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.metrics import average_precision_score, r2_score

import transfer_metrics as tm
from transfer_metrics.__main__ import main
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.heads.objective import doubt

MODEL = "zoo:resnet-cifar10"
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
FLOATS = (PIXELS.transpose(0, 3, 1, 2) / 255).astype(np.float32)
NORMALISED = RNG.normal(0, 1, (30, 3, 32, 32)).astype(np.float32)
LABELS = [0, 1, 2] * 10


def fitted(examples: np.ndarray) -> tm.LinearProbe:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TransferMetricsWarning)
        return tm.LinearProbe(C_grid=(1.0,)).fit(MODEL, (examples, LABELS))


@pytest.fixture(scope="module")
def of_arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("heads") / "arrays"
    fitted(NORMALISED).save(place)
    return place


def test_images_are_not_given_to_a_head_on_arrays_as_they_are(of_arrays, tmp_path, capsys):
    head = tm.load_head(of_arrays)
    Image.fromarray(PIXELS[0]).save(tmp_path / "one.png")
    for images in (PIXELS, FLOATS, 255 * FLOATS, str(tmp_path / "one.png"), str(tmp_path)):
        for predict in (head.predict, head.predict_table):
            with pytest.raises(InvalidInputError, match=r"took as they are.* are images"):
                predict(images)
    assert main(["predict", "--head", str(of_arrays), str(tmp_path / "one.png")]) == 2
    assert "fitted on arrays (3, 32, 32) of -" in capsys.readouterr().err
    with pytest.warns(TransferMetricsWarning, match="normalised for it already"):
        again = head.logits(NORMALISED)
    assert np.abs(again).max() > 0
    assert head._card()["preprocessing"] == {"modality": "tensor"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :1], r"an example has the shape \(1, 32, 32\)"),
        (lambda x: x.transpose(0, 2, 3, 1), r"an example has the shape \(32, 32, 3\)"),
        (lambda x: x.reshape(len(x), -1), r"an example has the shape \(3072,\)"),
    ],
)
def test_arrays_of_other_channels_are_refused(of_arrays, change, message):
    with pytest.raises(InvalidInputError, match=message):
        tm.load_head(of_arrays).predict(change(NORMALISED))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: 1000 * x, "values of up to .*e.03, which may be another unit"),
        (lambda x: x / 1000, "which may be another unit"),
        (lambda x: x[..., ::2, ::2], r"the shape \(3, 16, 16\), which is another scale"),
    ],
)
def test_arrays_of_another_unit_or_size_are_warned_of(of_arrays, change, message):
    head = tm.load_head(of_arrays)

    def told(examples: np.ndarray) -> list[str]:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            head.predict(examples)
        return [str(w.message) for w in found if "fitted on" in str(w.message)]

    [text] = told(change(NORMALISED))
    assert re.search(message, text)
    assert told(NORMALISED[:2].astype(np.float64)) == []


def test_pixels_of_any_form_are_one_input(tmp_path):
    """Floats of 0 to 1 are pixels to a model that normalises, and so they are to what is saved."""
    by_bytes, by_floats = fitted(PIXELS), fitted(FLOATS)
    by_floats.save(tmp_path / "head")
    again = tm.load_head(tmp_path / "head")
    for head in (by_bytes, by_floats, again):
        for form in (PIXELS, FLOATS, 255 * FLOATS, [Image.fromarray(x) for x in PIXELS]):
            np.testing.assert_array_equal(head.logits(form), by_bytes.logits(PIXELS))


def test_doubt_is_where_one_answer_does_as_well():
    truth = np.array([0] * 60 + [1] * 40)
    constant = DummyClassifier(strategy="most_frequent").fit(truth[:, None], truth)
    rule = constant.score(truth[:, None], truth)
    assert doubt("classification", rule, 0.05, truth, ("cat", "dog")) == (
        f"no better than always answering 'cat', which {100 * rule:.1f} % of these examples are"
    )
    assert doubt("classification", rule + 0.09, 0.05, truth).startswith("not surely better")
    assert doubt("classification", rule + 0.11, 0.05, truth) == ""
    targets = RNG.normal(size=(50, 2))
    flat = DummyRegressor().fit(targets, targets).predict(targets)
    assert r2_score(targets, flat) == pytest.approx(0.0)
    assert doubt("regression", -0.01, None, targets).startswith("no better than always")
    assert doubt("regression", 0.05, 0.02, targets) == ""
    labels = (RNG.random((50, 3)) < 0.3).astype(float)
    rule = average_precision_score(labels, np.broadcast_to(labels.mean(0), labels.shape))
    assert f"is {100 * rule:.1f} %" in doubt("multilabel", rule - 1e-9, 0.0, labels)
    assert doubt("multilabel", rule + 0.1, 0.04, labels) == ""


@pytest.fixture(scope="module")
def hopeless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise with labels that have nothing to do with it, four of five of one class."""
    place = tmp_path_factory.mktemp("data") / "noise.npz"
    noise = RNG.integers(0, 256, (120, 8, 8), dtype=np.uint8)
    y = np.where(np.arange(120) % 5 > 0, 0, 1)
    rows = {"X_train": noise[:80], "y_train": y[:80], "X_test": noise[80:], "y_test": y[80:]}
    np.savez(place, **rows)
    return place


@pytest.mark.integration
def test_a_head_on_floats_is_exported_for_pixels(tmp_path):
    pytest.importorskip("onnxruntime")
    exported = fitted(FLOATS).export(tmp_path / "floats.onnx")
    assert exported.inputs == {"pixels": "uint8 (N, 3, 32, 32)"}


def test_a_head_that_learnt_nothing_says_so(hopeless, tmp_path, capsys):
    task, told = f"npz:{hopeless}", "better than always answering '0', which 80.0 % of these"
    out = tmp_path / "head"
    argv = ["train", "--model", "zoo:cnn-mnist", "--task", task, "--out", str(out)]
    assert main(argv) == 0
    assert told in capsys.readouterr().err
    assert main(["predict", "--head", str(out), task]) == 0
    assert told in capsys.readouterr().err
    table = tm.compare("zoo:cnn-mnist", task, "linear_probe", cache="never", progress=False)
    assert told in table.format()
    assert told in table.summary()["note"].iloc[0]
    tm.write_report(table, tmp_path / "page.html")
    assert told in html.unescape((tmp_path / "page.html").read_text("utf-8"))


def test_a_head_without_a_test_is_doubted_by_its_validation(hopeless, tmp_path, capsys):
    with np.load(hopeless) as data:
        np.savez(tmp_path / "train.npz", X=data["X_train"], y=data["y_train"])
    argv = ["--model", "zoo:cnn-mnist", "--task", f"npz:{tmp_path / 'train.npz'}"]
    assert main(["train", *argv, "--out", str(tmp_path / "head")]) == 0
    told = capsys.readouterr().err
    assert "accuracy on 16 examples for validation: " in told
    assert "on val the head is " in told

"""Missing labels and damaged images: an error, or left out and counted."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.features.extract import extract
from transfer_metrics.sources.tasks.label_values import as_array
from transfer_metrics.sources.tasks.labels import unlabelled
from transfer_metrics.sources.tasks.load_task import load_task
from transfer_metrics.sources.tasks.sequences import Files

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (4, 24, 24, 3), np.uint8)


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


DAMAGES = {
    "truncated.jpg": encoded(PIXELS[0], "JPEG")[:400],
    "truncated.png": encoded(PIXELS[0], "PNG")[:-700],
    "empty.png": b"",
    "text.jpg": b"this is no picture",
}


def folder(path: Path, damages=()) -> Path:
    for i, pixels in enumerate(PIXELS):
        file = path / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(pixels, "PNG"))
    for name in damages:
        (path / "a" / f"9-{name}").write_bytes(DAMAGES[name])
    return path


# ---------------------------------------------------------------- damaged images


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_images_are_errors_by_default(tmp_path: Path, damage: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"1 of 5 images.*9-{damage}.*replace or remove"):
        load_task(f"imagefolder:{folder(tmp_path, [damage])}")


def test_all_that_is_wrong_with_a_folder_is_one_message(tmp_path: Path) -> None:
    torn = folder(tmp_path, DAMAGES)
    (torn / "nothing").mkdir()
    (torn / "__MACOSX").mkdir()
    for stray in ("notes.txt", "a/list.csv", "loose.png"):
        (torn / stray).write_text("x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InvalidInputError) as told:
            load_task(f"imagefolder:{torn}?seed=1")
    for part in (
        "4 of 8 images cannot be read", "a/9-empty.png (empty)", "a/9-text.jpg (no image)",
        "a/9-truncated.jpg (damaged)", "a/9-truncated.png (damaged)", "add &corrupt=skip",
        "nothing (no image in it)", "__MACOSX (hidden", "a/list.csv (no image)",
        "2 such as loose.png (in no class folder)",
    ):  # fmt: skip
        assert part in str(told.value)
    with pytest.warns(TransferMetricsWarning) as skipped:
        task = load_task(f"imagefolder:{torn}?corrupt=skip")
    assert len(task["train"]) == 4
    assert len(skipped) == 2  # what was skipped, and what else was left out


def test_whole_files_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path)
    for kind in ("JPEG", "GIF"):
        (tmp_path / "a" / f"7.{kind.lower()}").write_bytes(encoded(PIXELS[0], kind))
    monkeypatch.setattr(Files, "read", lambda *_: pytest.fail("it was decoded"))
    assert len(load_task(f"imagefolder:{tmp_path}")["train"]) == 6


def test_damaged_images_are_skipped_and_counted(tmp_path: Path) -> None:
    whole = load_task(f"imagefolder:{folder(tmp_path / 'whole')}")
    torn = folder(tmp_path / "torn", DAMAGES)
    with pytest.warns(
        TransferMetricsWarning, match=r"left out 4 of 8 .* the first: .*9-empty\.png"
    ):
        task = load_task(f"imagefolder:{torn}?corrupt=skip")
    assert task["train"].labels.tolist() == whole["train"].labels.tolist()
    assert task["train"].fingerprint == whole["train"].fingerprint
    pixels = [np.asarray(image) for image in task["train"].examples]
    assert np.array_equal(np.stack(pixels), PIXELS[[0, 2, 1, 3]])


def test_features_without_the_damaged_are_those_of_the_rest(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(5), torch.nn.ReLU())
    net(torch.zeros(1, 3, 8, 8))
    net.pretrained_cfg = {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    whole = load_task(f"imagefolder:{folder(tmp_path / 'whole')}")
    with pytest.warns(TransferMetricsWarning, match="left out 4"):
        task = load_task(f"imagefolder:{folder(tmp_path / 'torn', DAMAGES)}", corrupt="skip")
    one, other = (
        extract(net, t, layers="*", shard_size=3, batch_size=2, progress=False)
        for t in (whole, task)
    )
    assert [layer.name for layer in one.layers] == [layer.name for layer in other.layers]
    for layer in one.layers:
        assert np.array_equal(one[layer.name], other[layer.name])


def test_nothing_that_can_be_read(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jpg").write_bytes(b"x")
    with pytest.raises(InvalidInputError, match=r"none of 2 examples can be read.*a/0\.jpg"):
        load_task(f"imagefolder:{tmp_path}?corrupt=skip")
    (tmp_path / "a" / "1.png").write_bytes(encoded(PIXELS[0], "PNG"))
    with (
        pytest.warns(TransferMetricsWarning, match="left out 2 of 3"),
        pytest.raises(InvalidInputError, match=r"1 of 3 examples .* one class"),
    ):
        load_task(f"imagefolder:{tmp_path}?corrupt=skip")


def test_good_images_are_not_copied_or_told_of(tmp_path: Path) -> None:
    task = load_task(f"imagefolder:{folder(tmp_path)}")
    assert load_task(task, corrupt="skip")["train"] is task["train"]


def test_sample_of_what_is_left(tmp_path: Path) -> None:
    torn = folder(tmp_path, DAMAGES)
    with pytest.warns(TransferMetricsWarning, match="left out 4"):
        task = load_task(f"imagefolder:{torn}?corrupt=skip&examples=4")
    assert np.bincount(task["train"].labels).tolist() == [2, 2]


# ---------------------------------------------------------------- missing labels


@pytest.mark.parametrize(
    ("labels", "classes", "kind", "missing"),
    [
        ([0, None, 1], None, None, [1]),
        ([0.0, float("nan"), 1.5], None, None, [1]),
        (np.array([0.5, np.nan, -100.0]), None, "regression", [1]),
        (np.array([[0.5, 1], [np.nan, 1]]), None, "regression", [1]),
        (["a", "", "b"], None, None, [1]),
        (np.array(["a", "", "b"]), None, None, [1]),
        ([0, -100, -1], None, None, [1]),
        ([0, -100, -1], ["a", "b"], None, [1, 2]),
        ([0, -100, -1], None, "regression", []),
        (np.array([0, -100, -1]), ["a", "b"], None, [1, 2]),
        (torch.tensor([0, -100, 1]), None, None, [1]),
        ([np.int64(-100), np.int64(1)], None, None, [0]),
        ([True, False], None, None, []),
    ],
)
def test_which_labels_are_missing(labels, classes, kind, missing) -> None:
    found = unlabelled({"train": as_array(labels)}, kind, classes)["train"]
    assert np.flatnonzero(found).tolist() == missing


@pytest.mark.parametrize("none", [None, float("nan"), "", -100])
def test_missing_labels_are_errors_or_skipped(none) -> None:
    x, y = list("abcde"), ["u", "v", none, "u", "v"]
    with pytest.raises(InvalidInputError, match=r"1 labels are missing.*example 2.*missing=skip"):
        load_task(x, y, missing="error")
    with pytest.warns(TransferMetricsWarning, match="left out 1 of 5 examples, which have no"):
        task = load_task(x, y)
    assert list(task["train"].examples) == list("abde")
    assert task["train"].labels.tolist() == [0, 1, 0, 1]
    assert task.classes == ("u", "v")


def test_kind_is_that_of_the_labels_that_are_there() -> None:
    with pytest.warns(TransferMetricsWarning, match="left out 1 of 4"):
        task = load_task(np.eye(4), [0.5, None, 1.5, 2.5], missing="skip")
    assert task.kind == "regression"
    assert task["train"].labels.tolist() == [0.5, 1.5, 2.5]
    with pytest.warns(TransferMetricsWarning, match="left out 1 of 4"):
        whole = load_task(np.eye(4), [3, None, 7, 7], missing="skip")
    assert whole.classes == ("3", "7")


def test_split_without_any_label_is_left_out() -> None:
    data = {"train": (np.eye(4), [0, 1, 0, 1]), "test": (np.eye(4), [None] * 4)}
    with pytest.warns(TransferMetricsWarning, match="left out split 'test'"):
        assert list(load_task(data).splits) == ["train"]
    data = {"train": (np.eye(4), [None] * 4), "test": (np.eye(4), [0, 1, 0, 1])}
    with pytest.raises(InvalidInputError, match="4 labels are missing"):
        load_task(data)


def test_rows_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "text,label,label_name,split\na,1,good,train\nb,,,train\nc,0,bad,train\nd,,,test\n"
    )
    with pytest.raises(InvalidInputError, match=r"1 labels are missing in column 'label'.*ample 1"):
        load_task(f"csv:{path}?missing=error")
    with pytest.warns(TransferMetricsWarning) as told:
        task = load_task(f"csv:{path}")
    assert [str(t.message).partition("left out ")[2] for t in told] == [
        "1 of 3 examples, which have no label in column 'label'",
        "split 'test', which has no labels",
    ]
    assert list(task["train"].examples) == ["a", "c"]
    assert (task["train"].labels.tolist(), task.classes) == ([1, 0], ("bad", "good"))
    assert list(task.splits) == ["train"]

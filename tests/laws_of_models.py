"""What must not change the features and scores of a model: one law, one function."""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor, nn

import transfer_metrics as tm
from tests.law_models import Subject, Wrap, with_module
from tests.law_tasks import Data
from transfer_metrics.errors import TransferMetricsWarning
from transfer_metrics.features.layers import Layer
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.tasks.task import Task

ROUNDING, DIGITS = 2e-3, 2e-6
"""Largest difference of features that float32 explains: in standard deviations of their layer, and
of the largest value, which is a few units in the last place. Most networks stay below 1e-5; the
deepest of random weights (EfficientNet-B0) is 6e-4 from itself in float64 as it is, 8e-4 with
normalisations folded, and so 1.1e-3 from one to the other."""
SCORES = 1e-3
"""Largest difference of scores, relative to those above one."""
METRICS = {
    "classification": ("knn", "logme", "transrate", "h_score", "ridge_probe"),
    "regression": ("knn", "logme", "ridge_probe"),
}
SOURCE = ("leep", "nce")


class Broken(AssertionError):
    """A law does not hold."""


@dataclass(frozen=True)
class Reading:
    """What the toolkit reads of a task by a model.

    Attributes:
        head: path of the classifier.
        layers: the blocks, in order.
        features: (N, D) of each layer, and of the classifier's output under ``logits``.
        labels: (N,).
        scores: of the last layer, by metric.
    """

    head: str | None
    layers: list[Layer]
    features: Mapping[str, np.ndarray]
    labels: np.ndarray
    scores: Mapping[str, float]


def read(model: Model, task: Task, **options: Any) -> Reading:
    """Extract all blocks, and score the last one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TransferMetricsWarning)
        store = tm.extract(model, task, progress=False, **{"batch_size": 7, **options})
        features = {name: store[name] for name in store.names}
        logits = store.source_logits
        metrics, source = METRICS[store.kind], None
        if logits is not None:
            features["logits"] = logits
            metrics, source = (*metrics, *SOURCE), softmax(logits.astype(np.float64), axis=1)
        table = tm.score(
            store[store.names[-1]], store.labels, metrics, source=source, kind=store.kind
        )
    for failure in table.failures:
        raise Broken(f"{failure['metric']} failed: {failure['error']}")
    scores = {record["metric"]: record["value"] for record in table.records}
    return Reading(store.manifest["head"], store.layers, features, store.labels, scores)


def same(found: Reading, wanted: Reading, prefix: str = "") -> None:
    """Compare two readings: layers, classifier, features and scores.

    Raises:
        Broken: they differ; says where.
    """
    head = None if wanted.head is None else prefix + wanted.head
    names = [prefix + layer.name for layer in wanted.layers]
    differ("layers", [layer.name for layer in found.layers], names)
    differ("head", found.head, head)
    differ("layers", [meaning(a) for a in found.layers], [meaning(b) for b in wanted.layers])
    differ("logits", "logits" in found.features, "logits" in wanted.features)
    for name, expected in wanted.features.items():
        close(name, found.features[name if name == "logits" else prefix + name], expected)
    if not np.array_equal(found.labels, wanted.labels):
        raise Broken("other labels")
    same_scores(found.scores, wanted.scores)


def same_scores(found: Mapping[str, float], wanted: Mapping[str, float]) -> None:
    """Raise where scores differ by more than rounding of the features explains."""
    differ("metrics", list(found), list(wanted))
    for metric, value in wanted.items():
        if not abs(found[metric] - value) <= SCORES * max(1, abs(value)):
            raise Broken(f"{metric} is {found[metric]:.6g}, not {value:.6g}")


def meaning(layer: Layer) -> tuple[Any, ...]:
    """What must agree of a layer; how many tokens it has depends on the text."""
    shape = layer.shape if layer.layout in ("ND", "NCHW", "NHWC") else ()
    return layer.kind, layer.layout, shape, layer.dim, layer.params


def differ(what: str, found: Any, wanted: Any) -> None:
    """Raise where two things are not equal."""
    if found != wanted:
        raise Broken(f"{what}: {found}, not {wanted}")


def close(name: str, found: np.ndarray, wanted: np.ndarray) -> None:
    """Raise where features differ by more than rounding."""
    differ(f"{name} has shape", found.shape, wanted.shape)
    spread = float(np.sqrt(wanted.var(0).mean()))
    apart = float(np.abs(found - wanted).max())
    if not apart <= ROUNDING * spread + DIGITS * float(np.abs(wanted).max()):
        raise Broken(f"{name} differs by {apart / (spread or 1e-30):.2g} standard deviations")


def alive(base: Reading) -> None:
    """Raise where features hardly depend on the example, so that every law would hold."""
    for name, features in base.features.items():
        if not features.std(0).mean() > 1e-3 * np.abs(features).mean():
            raise Broken(f"{name} has the same features for all examples")


def batch_of_one(subject: Subject, data: Data, base: Reading) -> None:
    same(read(subject.model, data.task(), batch_size=1), base)


def batch_of_64(subject: Subject, data: Data, base: Reading) -> None:
    same(read(subject.model, data.task(), batch_size=64), base)


def order(subject: Subject, data: Data, base: Reading) -> None:
    shuffled = np.random.default_rng(1).permutation(len(data.examples))
    rows = data.rows(shuffled)
    moved = {name: features[rows] for name, features in base.features.items()}
    wanted = Reading(base.head, base.layers, moved, base.labels[rows], base.scores)
    same(read(subject.model, data.taken(shuffled).task()), wanted)


def two_loaders(subject: Subject, data: Data, base: Reading) -> None:
    same(read(subject.model, data.task(), num_workers=2), base)


def double(subject: Subject, data: Data, base: Reading) -> None:
    module = copy.deepcopy(subject.model.module).double()
    same(read(with_module(subject.model, module), data.task()), base)


def wrapped(subject: Subject, data: Data, base: Reading) -> None:
    module = Wrap(subject.model.module)
    same(read(with_module(subject.model, module), data.task()), base, "inner.")


def reloaded(subject: Subject, data: Data, base: Reading) -> None:
    same(read(subject.again, data.task()), base)


def bare(subject: Subject, data: Data, base: Reading) -> None:
    """Hooks of our own around the plain network, one example at a time, and nothing padded."""
    model, rows = subject.model, defaultdict(list)
    fits = np.ones(len(base.labels), dtype=bool)
    for place, example in enumerate(data.examples):
        spans, by_word = None, isinstance(example, list)
        if by_word:
            spans = word_tokens(model, example)
            if spans is None:  # a sentence that is cut in pieces
                fits[data.rows([place])] = False
                continue
        inputs = model.batch([" ".join(example) if by_word else example])
        seen, output = observed(model.module, inputs)
        for layer in base.layers:
            path, _, call = layer.name.rpartition(":") if ":" in layer.name else (layer.name, "", 0)
            tensor = seen[path, call == "input"][int(call) if str(call).isdecimal() else 0]
            rows[layer.name] += pooled(layer, tensor, inputs, spans)
        if "logits" in base.features:
            rows["logits"].append(output.reshape(-1))
    for name, expected in base.features.items():
        close(name, torch.stack(rows[name]).float().numpy(), expected[fits])


def observed(module: nn.Module, inputs: Any) -> tuple[dict[tuple[str, bool], list[Tensor]], Tensor]:
    """What every module was given and what it gave, call by call, and the output of the whole."""
    seen: dict[tuple[str, bool], list[Tensor]] = defaultdict(list)
    handles = []
    for path, part in module.named_modules():

        def entered(_m: Any, args: Any, kwargs: Any, path: str = path) -> None:
            seen[path, True] += [t.clone() for t in first([*args, *kwargs.values()])]

        def left(_m: Any, _args: Any, out: Any, path: str = path) -> None:
            seen[path, False] += [t.clone() for t in first(out)]

        handles.append(part.register_forward_pre_hook(entered, with_kwargs=True))
        handles.append(part.register_forward_hook(left))
    try:
        with torch.no_grad():
            out = module.eval()(**inputs) if isinstance(inputs, Mapping) else module.eval()(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen, first(getattr(out, "logits", out))[0]


def first(output: Any) -> list[Tensor]:
    """The first tensor of numbers in an output, in a list; an empty list where there is none."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, Mapping):
        output = list(output.values())
    parts = map(first, output) if isinstance(output, (list, tuple)) else []
    return next((part for part in parts if part), [])


def pooled(layer: Layer, tensor: Tensor, inputs: Any, spans: Any) -> list[Tensor]:
    """One vector of the only example of a batch; or one for each of its words."""
    if layer.layout in ("NCHW", "NCT"):
        tensor = tensor.movedim(1, -1)
    tokens = tensor[0].reshape(-1, tensor.shape[-1])
    if spans is not None:
        return [tokens[positions].mean(0) for positions in spans]
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    if mask is not None and not mask.all():  # a window: only frames with sound are read
        kept = mask[0, :: round(mask.shape[1] / len(tokens))][: len(tokens)].bool()
        tokens = tokens[kept]
    return [tokens.mean(0)]


def word_tokens(model: Model, sentence: list[str]) -> list[list[int]] | None:
    """Which tokens begin in each word or the space before it; None for more than are read."""
    found = model.collate.tokenizer(
        " ".join(sentence),
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    if len(found["input_ids"]) > model.collate.longest:
        return None
    begins = [
        -2 if special else begin
        for (begin, _), special in zip(
            found["offset_mapping"], found["special_tokens_mask"], strict=True
        )
    ]
    ends = np.cumsum([len(word) + 1 for word in sentence]) - 1
    return [
        [i for i, begin in enumerate(begins) if end - len(word) - 1 <= begin < end]
        for word, end in zip(sentence, ends, strict=True)
    ]


LAWS: dict[str, Callable[[Subject, Data, Reading], None]] = {
    "batch of 1": batch_of_one,
    "batch of 64": batch_of_64,
    "order": order,
    "2 loaders": two_loaders,
    "float64": double,
    "wrapped": wrapped,
    "reloaded": reloaded,
    "bare forward": bare,
}
"""The laws, by the titles of their columns."""

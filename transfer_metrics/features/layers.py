"""Which layers a network has, and what it would cost to keep their features."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from transfer_metrics.errors import (
    InvalidInputError,
    LayerNotFoundError,
    TransferMetricsError,
    warn,
)
from transfer_metrics.features.blocks import find_blocks
from transfer_metrics.features.inference import folds_of
from transfer_metrics.features.pooling import Pool, resolve_pool
from transfer_metrics.features.trace import Call, Trace, batch_size, parse_layer, trace
from transfer_metrics.sources.models.classifier import configured_head, tensors_in
from transfer_metrics.sources.models.load_model import load_model
from transfer_metrics.sources.models.model import Model, place
from transfer_metrics.sources.models.modules import copied, is_lazy, is_leaf, matrices, plain_module
from transfer_metrics.sources.specs import results_of


@dataclass(frozen=True)
class Layer:
    """One place in a network where features are read.

    Attributes:
        name: dotted module path, with ``:k`` for the k-th call of a module that runs more than
            once; ``"<head>:input"`` is what enters the classifier.
        index: position among the listed layers, in call order.
        depth: position among all traced calls, scaled to (0, 1].
        kind: class name of the module.
        shape: output shape of one example.
        layout: ``NCHW``, ``NHWC``, ``NTC``, ``NCT``, ``TNC`` or ``ND``; what the axes mean.
        dim: number of features after pooling.
        bytes: float32 bytes of one pooled example.
        params: parameters inside the module.
    """

    name: str
    index: int
    depth: float
    kind: str
    shape: tuple[int, ...]
    layout: str
    dim: int
    bytes: int
    params: int


LayerSpec = str | int | Layer
"""One item of a layer specification."""
MEAN = "mean"
"""Name of the layer that is the mean of the hidden layers."""
_NO_HEAD = (
    "no classifier was found, so its last layer is the network's output, which may be class "
    "scores: name the classifier (load_model(…, head='…')), or say that there is none (head=False)"
)
_NO_MODULE = (
    "no module gives what the network returns, so its last layer is the last one that runs; what "
    "functions do behind it, such as a ReLU and the product with a classifier's weights, is not in "
    "its features: write that as modules (nn.Linear), or say that it has no classifier (head=False)"
)


def list_layers(
    model: Model | nn.Module | str,
    layers: LayerSpec | Iterable[LayerSpec] = "blocks",
    pool: str | Pool | Callable[..., Tensor] = "avg",
    *,
    example: Any = None,
) -> list[Layer]:
    """List layers of a model, in the order in which they run.

    Args:
        model: a loaded model, any module, or the name of one for ``load_model``.
        layers: one of the following, or a list of them. Where a module runs k > 1 times in a
            forward pass, each call is a layer of its own, ``name:0`` to ``name:k-1``.

            - ``"blocks"``: blocks of any family, stem, and the classifier's input
              (the rule is in ``transfer_metrics.features.blocks``);
            - ``"*"``: every call of every module without children, and the classifier's input;
            - ``"activations"``: those of them that multiply by a weight matrix (convolutions,
              linear and embedding layers), the classifier included, and the classifier's input:
              what Head2Toe selects from;
            - ``"last"``: the classifier's input, ``"<head>:input"``; without a classifier the
              layer that the network returns;
            - ``"last:k"``, or a whole number: the last k blocks; a block by position, -1 the last;
            - a name, such as ``"layer3.5"``, ``"layer3.5.relu:2"`` or ``"fc:input"``; the name
              alone of a module that runs several times is all its calls;
            - a name with shell wildcards, which match dots too: ``"layer?"``, ``"*.relu"``;
            - a Layer;
            - a table of scores, its file or folder: the layer of this model that scores best there;
              or a selection, or its file: the layers that were chosen.
        pool: how each output is pooled; decides ``dim`` and ``bytes``.
        example: a batch of at least two inputs, a tensor or array, to trace with; needed where the
            shape of the input is not known.

    Returns:
        The layers without repetition, in call order. Outputs whose first axis is not the batch (the
        second, where time comes first), or which are not floating point with 2 to 4 axes, are left
        out.

    Raises:
        LayerNotFoundError: a name or position that matches nothing; suggests close names.
        InvalidInputError: the input's shape is not known, or the pooling does not fit a layer.
        ExtractionError: the forward pass failed.

    Cost: one forward pass of two examples.

    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
    >>> for layer in list_layers(network, example=torch.zeros(2, 3, 8, 8)):
    ...     print(layer.name, layer.shape, layer.layout, layer.dim)
    1 (8, 6, 6) NCHW 8
    3:input (288,) ND 288
    """
    model = load_model(model) if isinstance(model, str) else model
    asked = items(layers, getattr(model, "name", ""))
    traced = _traced(model, example)
    return _listed(traced, _resolve(traced, asked), resolve_pool(pool))


@dataclass(frozen=True)
class Found:
    """What one traced forward pass tells of a network.

    Path and width in ``logits`` are of what gives the source logits: the classifier, or the whole
    network where that makes one vector of the classifier's outputs at all positions, or of several
    classifiers.
    """

    layers: list[Layer]  # those that were asked for, in call order
    head: str | None  # path of the classifier
    logits: tuple[str, int] | None
    notes: tuple[str, ...]  # what a reader of its scores should know of the classifier
    folds: tuple[tuple[str, str], ...] = ()  # normalisations that can go into convolutions
    input_bytes: int = 0  # of the numbers that one example enters as, in float32


def find_layers(model: Model, layers: list[str | int], pool: Pool, example: Any) -> Found:
    """Like ``list_layers``, with what else the pass tells."""
    traced = _traced(model, example)
    calls = _resolve(traced, layers)
    ends = [call for call in traced.calls if call.path == traced.head and not call.is_input]
    logits = None
    own = [] if traced.heads.averaged else ends[-1:]
    for call in [*own, traced.output] if ends else []:
        if call.shape is not None and len(call.shape) == 1:
            logits = (call.path, call.shape[0])
            break
    return Found(
        _listed(traced, calls, pool),
        traced.head,
        logits,
        tuple(_doubts(traced, model.open_head)),
        folds_of(traced, [*calls, *ends, traced.output]),
        4 * sum(x.numel() for x in tensors_in(example)) // max(batch_size(example), 1),
    )


def _doubts(traced: Trace, is_open: bool) -> Iterator[str]:
    """What is doubtful about the classifier that was found, or named."""
    head, made = traced.head, traced.heads.paths
    others = [path for path in made if path != head]
    if head is None:
        returned = any(call.path and call.value == traced.output.value for call in traced.calls)
        if is_open:
            yield _NO_HEAD if returned else _NO_MODULE
    elif not any(f"{path}.".startswith(f"{head}.") for path in made):
        yield f"the output of its classifier {head!r} is not what it returns"
    elif is_open and traced.heads.averaged:
        yield (
            f"it returns the mean of several classifiers, of which {head!r} is taken: what enters "
            f"the others, such as {others[0]!r}, is not in its last layer"
        )
    elif is_open and others:
        yield (
            f"it returns the outputs of several layers, of which {head!r} is taken for the "
            f"classifier; load_model(…, head=) names another, such as {others[0]!r}"
        )


def memory_bytes(layers: Sequence[Layer], n: int, dtype: str = "float32") -> int:
    """Bytes that the pooled features of ``n`` examples take, in memory or on disk."""
    return n * sum(layer.bytes for layer in layers) * {"float32": 4, "float16": 2}[dtype] // 4


def hidden_layers(layers: Sequence[Layer]) -> list[Layer]:
    """The layers of a deep stack, such as those of a transformer, among the blocks of a network.

    These are the blocks of the class that occurs most often, of several the one that comes last.
    Where a layer of the same width follows them, the normalisation that ends many transformers, it
    stands in for the last of them, as in the hidden states of the ``transformers`` library; word
    embeddings do not count. Blocks that differ in width are refused.
    """
    places = {layer.kind: place for place, layer in enumerate(layers)}
    counts = Counter(layer.kind for layer in layers)
    kind = max(counts, key=lambda kind: (counts[kind], places[kind]))
    chosen = [layer for layer in layers if layer.kind == kind]
    widths = sorted({layer.dim for layer in chosen})
    if len(widths) > 1:
        raise InvalidInputError(
            f"the mean of layers of different widths ({widths[0]} to {widths[-1]}) is not defined; "
            f"use layers='best' or 'last'"
        )
    end = layers[-1]
    if end.kind != kind and (end.dim, end.layout) == (chosen[-1].dim, chosen[-1].layout):
        chosen[-1] = end
    return chosen


def items(layers: LayerSpec | Iterable[LayerSpec], model: str = "") -> list[str | int]:
    """A layer specification of a model as a list of names, patterns and numbers."""
    if (found := results_of(layers)) is not None:
        layers = found.chosen_layers(model)
    listed = [layers] if isinstance(layers, (str, int, Layer)) else list(layers)
    plain = [item.name if isinstance(item, Layer) else item for item in listed]
    if not plain:
        raise InvalidInputError("layers is empty; name at least one, or use layers='blocks'")
    for item in plain:
        if not isinstance(item, (str, int)) or isinstance(item, bool):
            raise InvalidInputError(f"layers holds {item!r}; use names, patterns or whole numbers")
    return plain


def _traced(model: Model | nn.Module, example: Any) -> Trace:
    if not isinstance(model, Model):
        module = plain_module(model)
        given = getattr(module, "pretrained_cfg", None)
        config: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
        shape = tuple(config.get("input_size") or ()) or None
        head, is_open = configured_head(module, config), "classifier" not in config
        name = type(module).__name__
        model = Model(name, module, None, "tensor", head, shape, open_head=is_open)
    if is_lazy(model.module):  # the caller's stays so
        model = dataclasses.replace(model, module=copied(model.module))
    module = model.module
    batch = place(model.dummy(2) if example is None else example, module)
    traced = trace(model, batch)
    if traced.head is not None and traced.head not in traced.counts:
        raise InvalidInputError(
            f"the head {traced.head!r} of model {model.name!r} does not run in its forward pass; "
            f"name the module that computes the class scores"
        )
    return traced


def _listed(traced: Trace, calls: Iterable[Call], pool: Pool) -> list[Layer]:
    return [_layer(traced, call, index, pool) for index, call in enumerate(calls)]


def _resolve(traced: Trace, wanted: list[str | int]) -> list[Call]:
    blocks, entering = find_blocks(traced), traced.entering
    at_end = [] if entering is None else [entering]
    calls = [call for call in traced.calls if call.path and not call.is_input]
    if not calls:
        raise LayerNotFoundError(
            "the network is one module, inside which no other runs, so it has no layers; build it "
            "of modules, such as nn.Sequential"
        )
    known = {traced.name(call): call for call in calls + at_end}
    leaves = [c for c in calls if c.shape is not None and is_leaf(traced.modules[c.path])]
    found: dict[int, Call] = {}
    for item in wanted:
        if item == "blocks":
            matches = blocks
        elif item == "*":
            matches = leaves + at_end
        elif item == "activations":
            matches = [c for c in leaves if matrices(traced.modules[c.path])] + at_end
        elif item == "last":
            made = [call for call in blocks if call.value == traced.output.value]
            matches = blocks[-1:] if traced.head is not None or not made else made[-1:]
        elif isinstance(item, str) and (last := re.fullmatch(r"last:(\d+)", item)):
            count = int(last[1])
            if count == 0:
                raise InvalidInputError("layers='last:0' names no layer; use 'last:1' or more")
            if count > len(blocks):
                warn(f"layers={item!r}: the model has only {len(blocks)} blocks, all of them taken")
            matches = blocks[-count:]
        elif isinstance(item, int) or re.fullmatch(r"-\d+", item):
            if not -len(blocks) <= int(item) < len(blocks):
                raise LayerNotFoundError(
                    f"there is no block {int(item)}: the model has {len(blocks)}, "
                    f"0 to {len(blocks) - 1}, or -1 for the last"
                )
            matches = [blocks[int(item)]]
        else:
            matches = _named(traced, known, item)
        usable = [call for call in matches if call.shape is not None]
        if not usable:
            raise LayerNotFoundError(
                f"layer {item!r} has no floating point output of 2 to 4 axes with the batch first, "
                f"so it cannot be pooled; choose another layer"
            )
        found.update({call.end: call for call in usable})
    return [found[end] for end in sorted(found)]


def _named(traced: Trace, known: dict[str, Call], item: str) -> list[Call]:
    """The calls that a name or pattern means."""
    if item in known:
        return [known[item]]
    every = [call for call in known.values() if call.path == item and not call.is_input]
    if every:
        return every
    if any(character in item for character in "*?["):
        every = [
            call
            for name, call in known.items()
            if fnmatch.fnmatchcase(name, item)
            or (not call.is_input and fnmatch.fnmatchcase(call.path, item))
        ]
        if every:
            return every
    elif parse_layer(item)[0] in traced.modules and parse_layer(item)[0] not in traced.counts:
        raise LayerNotFoundError(
            f"layer {item!r} does not run in the forward pass, so it has no output; "
            f"choose a layer that list_layers(model, '*') shows"
        )
    raise LayerNotFoundError.of("layer", item, known)


def _layer(traced: Trace, call: Call, index: int, pool: Pool) -> Layer:
    name, shape = traced.name(call), call.shape or ()
    pool = pool.at(name)
    try:
        layout = "NTC" if call.layout == "TNC" else call.layout
        output = torch.zeros(1, *shape)
        # Of texts and sounds some poolings make as many features whatever their length. Only a
        # batch tells words.
        masked = traced.masked and layout in ("NTC", "NCT") and pool.name != "mean_words"
        mask = torch.ones(1, shape[1 if layout == "NCT" else 0]) if masked else None
        dim = pool(output, layout, mask).shape[1]
    except TransferMetricsError as error:
        raise type(error)(f"layer {name!r}: {error}") from error
    module = traced.modules[call.path]
    return Layer(
        name=name,
        index=index,
        depth=call.end / len(traced.calls),
        kind=type(module).__name__,
        shape=shape,
        layout=call.layout,
        dim=dim,
        bytes=4 * dim,
        params=0 if call.is_input else sum(math.prod(p.shape) for p in module.parameters()),
    )

"""A head with its network as one file that runs without this package: ONNX, or of torch.export."""

from __future__ import annotations

import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transfer_metrics.errors import InvalidInputError, UnsupportedTaskError
from transfer_metrics.features.pooling import Pool, avg
from transfer_metrics.files import replacing
from transfer_metrics.heads.feed import Feed
from transfer_metrics.heads.network import TransferNet
from transfer_metrics.heads.origin import are_pixels
from transfer_metrics.heads.preprocessed import Inputs
from transfer_metrics.registry import choose
from transfer_metrics.sources.example import example_modality
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.models.modules import evaluation
from transfer_metrics.sources.optional import require
from transfer_metrics.untrusted import visible

_FORMATS = {"onnx": ".onnx", "torch-export": ".pt2"}
"""Formats, with the endings of their files."""
_TOLERANCE = 1e-4
"""How far logits of the file may be from the network's, over the largest of them or one."""
_MOST_BYTES = (1 << 31) - (1 << 20)
"""Of one ONNX file."""
_AT_ONCE = 64
_AXES = {"batch": "N", "length": "T"}
"""Axes of inputs that have any length, and how their sizes are told."""
_INSIDE, _PRODUCER = "transfer_metrics.json", "transfer_metrics"
"""Name of the description inside a file of torch.export; what ONNX calls who made a file."""
WRITTEN = (_INSIDE.encode(), b"\x12\x10" + _PRODUCER.encode())
"""What files that are exported here have near one of their ends."""
_ANSWERS: dict[str, Callable[[Tensor], dict[str, Tensor]]] = {
    "classification": lambda x: {"probabilities": x.softmax(-1), "logits": x},
    "multilabel": lambda x: {"probabilities": x.sigmoid(), "logits": x},
    "regression": lambda x: {"values": x},
}
"""What a file gives, by the kind of the task; the last is what the head computes."""


@dataclass(frozen=True)
class Exported:
    """A file that was written and tried.

    Attributes:
        path: the file.
        format: ``"onnx"`` or ``"torch-export"``.
        inputs: what it reads: type and shape by name, ``N`` for the batch.
        outputs: what it gives, likewise.
        difference: the largest between its logits and the network's, over the largest logit or one.
        bytes: how large it is.
    """

    path: Path
    format: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    difference: float
    bytes: int

    @classmethod
    def of(
        cls,
        network: TransferNet,
        model: Model,
        path: str | os.PathLike[str],
        format: str | None,
        about: Mapping[str, Any],
        by_word: bool = False,
        shape: Sequence[int] | None = None,
    ) -> Exported:
        """Write a network and try the file; see ``Head.export``.

        A head on words is written as one on tokens. Since it is linear, and what it reads of a
        word is the mean of its tokens, its logits are the mean of theirs. ``shape`` is that of the
        arrays that the head was fitted on, where it was.
        """
        if by_word:
            _refuse_words(network.pool, network.unit_norm)
        path = Path(path)
        format = _format_of(path, format)
        if format == "onnx":
            for package in ("onnx", "onnxscript", "onnxruntime"):
                require(package, "an export to ONNX", install="'transfer-metrics[onnx]'")
        network = network.cpu().eval().requires_grad_(False)
        feed = Feed.of(model, shape)
        if by_word:
            with evaluation(network), torch.no_grad():
                words = network(feed.words())
            network.pool = _EachToken(network.pool.name, network.pool.fn)
            about = {**about, "words": "logits of a word are the mean of those of its tokens"}
        deployed = _Deployed(network, feed, str(about.get("kind", "classification")), by_word)
        batches = feed.trials()
        with _undisturbed(), evaluation(deployed):
            program = _traced(deployed, batches[-1], feed, model.name)
            inputs, outputs = _signature(deployed, batches[-1], feed)
            described = {**about, **feed.about, "inputs": inputs, "outputs": outputs}
            with replacing(path) as temporary:
                if format == "onnx":
                    _write_onnx(program, temporary, inputs, outputs, described)
                else:
                    program.example_inputs = None  # which alone would be pickled
                    torch.export.save(
                        program, temporary, extra_files={_INSIDE: json.dumps(described)}
                    )
                run = _opened(temporary, format)
                found = [run(batch)[-1] for batch in batches]
                expected = [list(deployed(*batch.values()).values())[-1] for batch in batches]
                if by_word:
                    tokens = run(feed.of_batch(feed.words()))[-1]
                    found.append(_of_words(tokens, feed.words().words))
                    expected.append(words)
                difference = max(map(_apart, found, expected))
                if not difference <= _TOLERANCE:
                    raise InvalidInputError(
                        f"the exported file gives logits {difference:.2g} away from the network's, "
                        f"more than {_TOLERANCE:g}, so it was not written; try the other format"
                    )
        return cls(path, format, inputs, outputs, difference, path.stat().st_size)

    def logits(self, model: Model, examples: Sequence[Any]) -> np.ndarray:
        """What the file says of raw examples that a model preprocesses: logits (N, C)."""
        array = example_modality(examples[0]) == "tensor" and not are_pixels(model, examples[0])
        feed = Feed.of(model, np.shape(examples[0]) if array else None)
        run = _opened(self.path, self.format)

        def of_batch(batch: Any) -> Tensor:
            logits = run(feed.of_batch(batch))[-1]
            return torch.from_numpy(_of_words(logits, batch.words) if logits.ndim == 3 else logits)

        inputs = Inputs.of_examples(model, examples, keep=False)
        return inputs.map(of_batch, _AT_ONCE).numpy()


def _format_of(path: Path, format: str | None) -> str:
    if format is not None:
        choose("format of export", format, _FORMATS)
        return format
    found = [name for name, ending in _FORMATS.items() if path.suffix == ending]
    if not found:
        raise InvalidInputError(
            f"{path} does not end like a format of export ({', '.join(_FORMATS.values())}); name "
            f"it so, or say format=, one of {', '.join(_FORMATS)}"
        )
    return found[0]


class _EachToken(Pool):
    """No pooling: a row for each token of all sequences, padding included."""

    def __call__(self, output: Tensor, layout: str, mask: Tensor | None = None) -> Tensor:
        if layout != "NTC":
            raise UnsupportedTaskError(f"a layer gives {layout}, no features of tokens")
        return output.reshape(-1, output.shape[-1]).float()


def _refuse_words(pool: Pool, unit_norm: bool) -> None:
    """Raise where the logits of words are no means over their tokens."""
    if pool.fn is avg and not unit_norm:
        return
    why = f"pools the tokens of a word by {pool.name!r} and not by 'avg'"
    why = "scales features of words to length one" if unit_norm else why
    raise UnsupportedTaskError(
        f"the head {why}, so the logits of a word do not follow from those of its tokens, which "
        f"are all that a file knows; use predict, or export a linear_probe"
    )


def _of_words(tokens: np.ndarray, spans: Tensor) -> np.ndarray:
    """Logits of words, (M, C), from those of tokens, (S, T, C)."""
    return np.stack([tokens[s, start:end].mean(axis=0) for s, start, end in spans.tolist()])


class _Deployed(nn.Module):
    """A network from what is given to the file to what it gives."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: TransferNet, feed: Feed, kind: str, by_token: bool) -> None:
        super().__init__()
        self.network, self.by_token = network, by_token
        self.answers = _ANSWERS[kind]
        self.normalises, self.argument = feed.normalisation is not None, feed.argument
        if feed.normalisation is not None:
            for name, values in zip(("mean", "std"), feed.normalisation, strict=True):
                self.register_buffer(name, torch.tensor(values)[:, None, None])
        for name, row in feed.constant.items():
            self.register_buffer(f"constant_{name}", row)
        self.constant = tuple(feed.constant)
        self.names = tuple(feed.trials()[0])

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Probabilities and logits by name, of the inputs in the order of their names.

        (N, C), or (N, T, C) of tokens.
        """
        batch: Any = dict(zip(self.names, inputs, strict=True))
        if self.argument is not None:
            [x] = inputs
            x = (x.float() / 255 - self.mean) / self.std if self.normalises else x
            rows = {n: getattr(self, f"constant_{n}") for n in self.constant}
            rows = {n: row.expand(x.shape[0], *row.shape[1:]) for n, row in rows.items()}
            batch = {self.argument: x, **rows} if self.argument else x
        logits = self.network(batch)
        if self.by_token:
            logits = logits.reshape(*inputs[0].shape[:2], logits.shape[-1])
        return self.answers(logits)


def _traced(
    deployed: _Deployed, inputs: dict[str, Tensor], feed: Feed, name: str
) -> torch.export.ExportedProgram:
    try:
        return torch.export.export(
            deployed,
            tuple(inputs.values()),
            dynamic_shapes=(tuple(feed.open_axes(inputs).values()),),
            strict=False,
        )
    except Exception as error:  # whatever the code of somebody's network does to the tracer
        raise UnsupportedTaskError(
            f"{name} cannot be exported with a batch of any size: {_first_line(error)}; its "
            f"forward may turn a size into a number, as len(x) does where x.shape[0] would not"
        ) from error


def _first_line(error: Exception) -> str:
    return visible(next(iter(str(error).strip().splitlines()), type(error).__name__), 300)


def _signature(
    deployed: _Deployed, inputs: Mapping[str, Tensor], feed: Feed
) -> tuple[dict[str, str], dict[str, str]]:
    axes = feed.open_axes(inputs)

    def told(x: Tensor, open_axes: Mapping[int, Any]) -> str:
        sizes = [
            _AXES[open_axes[axis].__name__] if axis in open_axes else str(size)
            for axis, size in enumerate(x.shape)
        ]
        return f"{str(x.dtype).removeprefix('torch.')} ({', '.join(sizes)})"

    batch = next(iter(axes.values()))[0]
    given = {name: told(x, axes[name]) for name, x in inputs.items()}
    own = next(iter(axes.values())) if deployed.by_token else {0: batch}
    return given, {name: told(x, own) for name, x in deployed(*inputs.values()).items()}


def _write_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    about: Mapping[str, Any],
) -> None:
    import onnx

    weights = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    if weights > _MOST_BYTES:
        raise UnsupportedTaskError(
            f"the network has {weights:,} bytes of weights, more than one ONNX file holds; use the "
            f"format torch-export"
        )
    for node in program.graph.nodes:
        # The exporter refuses bounds of which one is whole and the other is not.
        if node.target == torch.ops.aten.clamp.default and node.meta["val"].is_floating_point():
            bounds = (float(bound) if type(bound) is int else bound for bound in node.args[1:])
            node.args = (node.args[0], *bounds)
    try:
        made = torch.onnx.export(
            program,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    except Exception as error:  # of the exporter, which has dozens
        raise UnsupportedTaskError(
            f"the network has operations that cannot be written as ONNX ({_first_line(error)}); "
            f"use the format torch-export"
        ) from error
    assert made is not None
    proto = made.model_proto
    _name_axes(proto.graph)
    plain = {k: v if isinstance(v, str) else json.dumps(v) for k, v in about.items()}
    onnx.helper.set_model_props(proto, plain)
    proto.producer_name = _PRODUCER
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


def _name_axes(graph: Any) -> None:
    """Call the open axes what they are, where the exporter numbers them."""
    names: dict[str, str] = {}
    for given in graph.input:
        for axis, size in enumerate(given.type.tensor_type.shape.dim):
            if size.dim_param:
                names.setdefault(size.dim_param, list(_AXES)[axis])
    told = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in names) or "$^")
    for value in (*graph.input, *graph.output, *graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = told.sub(lambda found: names[found[0]], size.dim_param)


def _opened(path: Path, format: str) -> Callable[[Mapping[str, Tensor]], list[np.ndarray]]:
    """An exported file as a function from inputs to outputs."""
    if format == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        return lambda inputs: session.run(None, {n: x.numpy() for n, x in inputs.items()})
    module = torch.export.load(path).module()
    return lambda inputs: [x.detach().numpy() for x in module(*inputs.values()).values()]


def _apart(logits: np.ndarray, others: Tensor) -> float:
    """The largest difference, over the largest that is expected or one."""
    expected = others.numpy()
    if logits.shape != expected.shape:
        return float("inf")
    return float(np.abs(logits - expected).max() / max(1.0, np.abs(expected).max()))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Without what torch and its exporter say about themselves."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

"""Which module of a network is its classifier."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from transfer_metrics.errors import LayerNotFoundError
from transfer_metrics.registry import choose
from transfer_metrics.sources.models.modules import evaluation, every_call, is_leaf


def check_head(module: nn.Module, head: str) -> str:
    """The path of a classifier, if the network has a module there."""
    names = [name for name, _ in module.named_modules() if name]
    return choose("head", head, names, LayerNotFoundError)


def configured_head(module: nn.Module, config: Mapping[str, Any]) -> str | None:
    """The classifier that a ``pretrained_cfg`` names, where the network has it with weights."""
    head = next(iter(configured_heads(config)), None)
    return with_weights(module, check_head(module, head)) if isinstance(head, str) else None


def configured_heads(config: Mapping[str, Any]) -> tuple[str, ...]:
    """All classifiers that a ``pretrained_cfg`` names; distilled networks have two."""
    named = config.get("classifier")
    return tuple(named) if isinstance(named, (tuple, list)) else (named,) if named else ()


def with_weights(module: nn.Module, head: str | None) -> str | None:
    """The head where it has weights: one that a checkpoint lacks has become the identity."""
    has = head is not None and any(True for _ in module.get_submodule(head).parameters())
    return head if has else None


def last_linear(module: nn.Module, outputs: int | None = None) -> str | None:
    """The last fully connected layer or 1x1 convolution, of so many outputs, as registered."""
    found = None
    for name, part in module.named_modules():
        width = _width(part)
        if name and width is not None and outputs in (None, width):
            found = name
    return found


def proven_head(module: nn.Module, batch: Any) -> str | None:
    """The linear layer that made what a network returns for a batch of two or more inputs."""
    try:
        with evaluation(module), linear_outputs(module) as heads_of:
            output = module(**batch) if isinstance(batch, Mapping) else module(batch)
            return heads_of(output).head
    except Exception:  # a network that cannot take the guessed input simply has no proven head
        return None


@contextmanager
def linear_outputs(module: nn.Module) -> Iterator[Callable[[Any], Heads]]:
    """Keep what linear layers give in a forward pass, and what does as they do.

    That are 1x1 convolutions, those that see a whole map, and modules of somebody's own with a
    matrix, such as classifiers by cosine. Given is a function that tells of what the network
    returned which of them made it, by their paths. That is, up to what follows a classifier: a
    softmax, a sigmoid, or where a single tensor is returned whatever else keeps the order of each
    row. (Among several tensors, one behind a tanh is rather a pooled feature.) What is called
    logits comes first.
    """
    seen: dict[str, list[Tensor]] = {}

    def keep(path: str, part: nn.Module, inputs: Any, output: Any) -> None:
        if not path or not isinstance(output, Tensor) or not output.is_floating_point():
            return
        if output.ndim < 2 or not (_width(part) is not None or _is_linear(part, inputs, output)):
            return
        seen.pop(path, None)  # the last call counts, in its place
        given = output.detach()
        if output.ndim == 2:
            seen[path] = [given.clone()]
        elif isinstance(part, _CONVOLUTIONS):  # on a map, which is averaged, maybe after a ReLU
            maps = given.flatten(2)
            seen[path] = [maps.mean(2), maps.relu().mean(2)]
        else:  # at every position
            seen[path] = [given.flatten(1, -2).mean(1)]

    with every_call(module, leave=keep):
        yield partial(_heads, seen)


def _heads(seen: Mapping[str, list[Tensor]], output: Any) -> Heads:
    alone = isinstance(output, Tensor)

    def makers(of: Any) -> tuple[list[Tensor], tuple[str, ...]]:
        tensors = [tensor.detach() for tensor in tensors_in(of) if tensor.ndim == 2]
        return tensors, tuple(
            path
            for path, forms in seen.items()
            if any(_is_made_of(tensor, rows, alone) for tensor in tensors for rows in forms)
        )

    is_mapping = isinstance(output, Mapping)
    logits = output.get("logits") if is_mapping else getattr(output, "logits", None)
    if named := makers(logits)[1]:
        return Heads(named)
    given, made = makers(output)
    for tensor in () if made else given:
        like = [name for name, [first, *_] in seen.items() if first.shape == tensor.shape]
        if len(like) > 1:
            mean = torch.stack([seen[name][0] for name in like]).mean(0)
            if _is_made_of(tensor, mean, alone):
                return Heads(tuple(like), averaged=True)
    return Heads(made)


@dataclass(frozen=True)
class Heads:
    """Classifiers whose output is what a network returns, in call order.

    ``averaged``: the network returns their mean, as distilled transformers do.
    """

    paths: tuple[str, ...] = ()
    averaged: bool = False

    @property
    def head(self) -> str | None:
        """The one whose input are the features: the last, or the first of those averaged."""
        return None if not self.paths else self.paths[0 if self.averaged else -1]


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_LINKS = (
    lambda rows: rows,
    lambda rows: rows.softmax(1),
    lambda rows: rows.log_softmax(1),
    lambda rows: rows.sigmoid(),
)


def _width(part: nn.Module) -> int | None:
    """Outputs of a linear layer, also a quantised one, or of a 1x1 convolution."""
    if isinstance(part, _CONVOLUTIONS):
        return part.out_channels if set(part.kernel_size) == {1} else None
    width = getattr(part, "out_features", None)
    return width if isinstance(width, int) and is_leaf(part) else None


def _is_linear(part: nn.Module, inputs: Any, output: Tensor) -> bool:
    """Whether a convolution sees a whole map, or a module that is not torch's has one matrix.

    That is from as many numbers as its input has to others, so that blocks with shortcuts are none.
    """
    if isinstance(part, _CONVOLUTIONS):
        return set(output.shape[2:]) == {1}
    given = next(tensors_in(inputs), None)
    if given is None or type(part).__module__.startswith("torch.") or not is_leaf(part):
        return False
    ends = given.shape[-1], output.shape[-1]
    shapes = {tuple(p.shape) for p in part.parameters() if p.ndim > 1}
    return ends[0] != ends[1] and len(shapes) == 1 and shapes <= {ends, ends[::-1]}


def _is_made_of(output: Tensor, rows: Tensor, any_order: bool) -> bool:
    if output.shape != rows.shape or not output.numel():
        return False
    given, logits = output.cpu().double(), rows.cpu().double()  # which some devices lack
    # Of the largest entry; half of the digits of each precision.
    tolerance = torch.finfo(output.dtype).eps ** 0.5
    for link in _LINKS:
        expected = link(logits)
        if (given - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1e-30):
            return True
    if not any_order or output.numel() <= 2:
        return False
    if output.shape[1] > 3:
        return torch.equal(given.argsort(1), logits.argsort(1))
    # Among a few entries an order is met by chance; what follows is then a stretch and a shift.
    x, y = logits - logits.mean(), given - given.mean()
    slope = float((x * y).sum() / x.square().sum().clamp(min=1e-300))
    return slope > 0 and float((y - slope * x).abs().max()) <= tolerance * float(y.abs().max())


def tensors_in(output: Any) -> Iterator[Tensor]:
    """The tensors of real numbers in a tensor, tuple, list, mapping, dataclass or model output.

    Nested tensors and packed sequences have no axis of the batch, so they do not count.
    """
    if isinstance(output, Tensor):
        if (output.is_floating_point() or output.is_quantized) and not output.is_nested:
            yield output
    elif isinstance(output, PackedSequence):
        return
    elif isinstance(output, Mapping):
        for item in output.values():
            yield from tensors_in(item)
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        for field in dataclasses.fields(output):
            yield from tensors_in(getattr(output, field.name, None))
    elif isinstance(output, Sequence) and not isinstance(output, str):
        for item in output:
            yield from tensors_in(item)

"""Which calls of a network are its blocks, for any family.

The rule walks the module tree from the root:

- *atomic* is a module with no children, or with at most one weight matrix (a parameter of two or
  more axes) inside: Conv2d, but also a Conv-BN-ReLU sequential;
- a *container* is a Sequential, ModuleList or ModuleDict that does not define its own ``forward``;
- a *wrapper* is a module with a container somewhere below in which composite (neither atomic nor
  container) children of one class run at least twice: a stage or an encoder. So is a module whose
  own composite children of one class run on each other's output, one that holds all weights
  outside the classifier, and every module above the classifier.

Containers and wrappers are descended into. Every other composite is a block, and its output a
layer: residual and dense blocks, transformer layers, inverted residuals, Fire, Inception.

Atomic modules outside blocks are grouped in the order in which they run. A group starts at a module
with a weight matrix and lasts to the next group, block or the classifier; its last output is a
layer, the last before positions are averaged away. So stem convolution, normalisation, activation
and pooling are one layer, and a plain CNN has one layer per convolution. Whatever runs between the
last block and the classifier is represented by the classifier's input, which is always the last
layer. Without a classifier, the module that made the network's output ends the list.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import nn

from transfer_metrics.features.trace import Call, Trace
from transfer_metrics.sources.models.modules import is_leaf, matrices

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def find_blocks(trace: Trace) -> list[Call]:
    """A call per block and group, in call order, and the classifier's input where there is one."""
    units, end = _units(trace), trace.entering
    entries: list[Call] = []
    group: list[Call] = []
    weighted = False
    for call in trace.calls:
        kind = units.get(call.path)
        if call is end:
            break
        if kind is None or call.is_input:
            continue
        if kind == "plain":
            group.append(call)
            continue
        if weighted:
            entries += _representative(group)
        group, weighted = [], kind == "weighted"
        if weighted:
            group.append(call)
        elif call.shape is not None:
            entries.append(call)
    if weighted:
        entries += _representative(group)
    if end is None:
        return _with_end(trace, units, entries, group)
    if end.shape is None:
        return entries
    return [call for call in entries if call.value != end.value] + [end]


def _with_end(
    trace: Trace, units: Mapping[str, str], entries: list[Call], rest: list[Call]
) -> list[Call]:
    """Let the network's output end the layers of a network without a classifier."""
    made = [c for c in trace.calls if c.path in units and c.value == trace.output.value and c.shape]
    listed = {call.end for call in entries}
    if not made:
        made = _representative(rest)
    elif any(call.end in listed for call in made):
        return entries
    return entries + [call for call in made[:1] if call.end not in listed]


def _units(trace: Trace) -> dict[str, str]:
    """Paths of the blocks, and of the atomic modules outside them, ``weighted`` or ``plain``."""
    head, outside = trace.head, matrices(trace.modules[""])
    if head is not None:
        outside -= matrices(trace.modules[head])
    units: dict[str, str] = {}

    def walk(path: str) -> None:
        for name, child in trace.modules[path].named_children():
            below = f"{path}.{name}" if path else name
            if below == head or below not in trace.modules:
                continue  # a module that is registered twice is known by its first name
            above_head = head is not None and head.startswith(below + ".")
            if below not in trace.counts or above_head:
                walk(below)
            elif _is_atomic(child):
                units[below] = "weighted" if matrices(child) else "plain"
            elif isinstance(child, torch.jit.ScriptModule):
                units[below] = "block"  # what is inside runs no hooks
            elif matrices(child) == outside or _is_container(child) or _is_wrapper(trace, below):
                walk(below)
            else:
                units[below] = "block"

    walk("")
    return units


def _is_atomic(module: nn.Module) -> bool:
    return is_leaf(module) or matrices(module) <= 1


def _is_container(module: nn.Module) -> bool:
    own = (nn.Sequential.forward, nn.Module.forward)
    return isinstance(module, _CONTAINERS) and type(module).forward in own


def _is_wrapper(trace: Trace, path: str) -> bool:
    if _is_chain(trace, path):
        return True
    for below, module in trace.modules[path].named_modules(prefix=path):
        if _is_container(module):
            runs = Counter(type(trace.modules[c.path]) for c in _composite_calls(trace, below))
            if runs and max(runs.values()) >= 2:
                return True
    return False


def _is_chain(trace: Trace, path: str) -> bool:
    """Whether composite children of one class run on each other's output."""
    return any(
        first.value == second.given
        and type(trace.modules[first.path]) is type(trace.modules[second.path])
        for first, second in pairwise(_composite_calls(trace, path))
    )


def _composite_calls(trace: Trace, path: str) -> list[Call]:
    """Calls of the children that are neither atomic nor containers."""
    paths = {
        f"{path}.{name}"
        for name, child in trace.modules[path].named_children()
        if not _is_atomic(child) and not _is_container(child)
    }
    return [call for call in trace.calls if call.path in paths and not call.is_input]


def _representative(group: list[Call]) -> list[Call]:
    """The call that stands for a group; none if no output can be pooled."""
    usable = [call for call in group if call.shape is not None]
    # XLNet makes twice as many distances as it has tokens.
    usable = [c for c in usable if c.layout != "TNC" or _positions(c) <= _positions(usable[0])]
    if usable and _positions(usable[0]) > 1:
        usable = [call for call in usable if _positions(call) > 1]
    if not usable:
        return []
    # Identity and dropout hand on the tensor that they were given: name who made it.
    return [next(call for call in usable if call.value == usable[-1].value)]


def _positions(call: Call) -> int:
    shape = call.shape or ()
    channels = {"NCHW": 0, "NHWC": 2, "NTC": 1, "TNC": 1, "NCT": 0, "ND": 0}[call.layout]
    return math.prod(shape) // shape[channels]

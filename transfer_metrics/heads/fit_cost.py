"""What a fitted head costs, and how far its training has moved the features."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from transfer_metrics.features.layers import place
from transfer_metrics.heads.base import Head
from transfer_metrics.heads.network import TransferNet
from transfer_metrics.heads.preprocessed import Inputs, chunks
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.models.modules import evaluation
from transfer_metrics.sources.tasks.task import Split


class _Cost(NamedTuple):
    """What one fitted head costs.

    Attributes:
        train_flops: operations of the final training, without any search for its settings; for
            heads on features with the forward passes that make them.
        stored_bytes: what has to be kept for the task beside the pretrained network, in float32.
    """

    train_flops: int
    stored_bytes: int


def cost_of(head: Head, forward: int, examples: int) -> _Cost:
    """The cost of a head fitted on a model whose ``forward`` pass takes so many operations.

    By Head2Toe's formulas (Evci et al., ICML 2022, section on cost): a backward pass counts twice a
    forward pass, a multiplication and an addition are two operations, and where features were
    chosen a bitmask over all of them is stored too.
    """
    classes, kept = head.coef_.shape
    stored = 4 * (kept + 1) * classes
    if head.network_ is not None:
        numbers = sum(t.numel() for t in head.network_.backbone.state_dict().values())
        steps, batch_size = head.run_steps_, min(head.batch_size, examples)
        return _Cost(steps * batch_size * 3 * forward, 4 * numbers + stored)
    reads, width = head.training_reads(examples)
    candidates: int = getattr(head, "candidates_", kept) or kept
    mask = 0 if candidates == kept else -(-candidates // 8)
    return _Cost(examples * forward + 6 * reads * width * classes, stored + mask)


def forward_flops(model: Model) -> int:
    """Operations of one forward pass of one example, counted by torch on a meaningless input.

    Convolutions, matrix products and attention count; element-wise operations do not.

    Raises:
        InvalidInputError: the shape of the input is not known.

    >>> from transfer_metrics.sources.models.load_model import load_model
    >>> forward_flops(load_model("zoo:resnet-random")) > 1_000_000
    True
    """
    batch = place(model.dummy(1), model.module)
    with FlopCounterMode(display=False) as counter, evaluation(model.module), torch.no_grad():
        model(batch)
    return int(counter.get_total_flops())


class _Distortion(NamedTuple):
    """Mean distance between features before and after, over examples.

    Attributes:
        raw: ``‖f1 - f0‖``, in the features' unit.
        relative: ``‖f1 - f0‖ / ‖f0‖``; examples whose features were all zero do not count.
    """

    raw: float
    relative: float


def distortion(
    model: Model, network: TransferNet, split: Split | Inputs, batch_size: int = 64
) -> _Distortion:
    """How far training has moved the features that a head reads from those of the model.

    Source: Kumar et al., ICLR 2022 (arXiv 2202.10054), who report the raw distance; its scale
        depends on the network, so the relative one is ours.

    Cost: two forward passes over the examples.
    """
    before = TransferNet(
        model.module,
        network.layers,
        network.pool,
        network.head,
        columns=network.chosen_columns(),
        unit_norm=network.unit_norm,
    )
    inputs = Inputs.of_any(model, split, "test")
    moved, lengths = [], []
    with evaluation(model.module), evaluation(network):
        for rows in chunks(len(inputs), batch_size):
            batch = inputs.batch(rows)
            old, new = before.features(batch).cpu(), network.features(batch).cpu()
            moved.append((new.double() - old.double()).norm(dim=1))
            lengths.append(old.double().norm(dim=1))
    distance, length = torch.cat(moved), torch.cat(lengths)
    some = length > 0
    relative = float((distance[some] / length[some]).mean()) if some.any() else 0.0
    return _Distortion(float(distance.mean()), relative)

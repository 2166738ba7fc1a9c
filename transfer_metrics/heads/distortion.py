"""How far training a network has moved its features."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from transfer_metrics.heads.network import TransferNet
from transfer_metrics.heads.preprocessed import Inputs
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.models.modules import evaluation
from transfer_metrics.sources.tasks.task import Split


class Distortion(NamedTuple):
    """Mean distance between features before and after, over examples.

    Attributes:
        raw: ``‖f1 - f0‖``, in the features' unit.
        relative: ``‖f1 - f0‖ / ‖f0‖``; examples whose features were all zero do not count.
    """

    raw: float
    relative: float


def distortion(
    model: Model, network: TransferNet, split: Split, batch_size: int = 64
) -> Distortion:
    """Distance between the features that a trained head reads and those of the original network.

    Args:
        model: the network as it was, with its preprocessing.
        network: the trained one.
        split: the examples.
        batch_size: examples per forward pass.

    Returns:
        The mean Euclidean distance and the mean relative one.

    Source: Kumar et al., ICLR 2022 (arXiv 2202.10054), who report the first; its scale depends on
        the network, so the second is ours.

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
    inputs = Inputs.of_examples(model, split.examples, name="the split", keep=False)
    moved, lengths = [], []
    with evaluation(model.module), evaluation(network), torch.inference_mode():
        for start in range(0, len(split), batch_size):
            batch = inputs.batch(np.arange(start, min(start + batch_size, len(split))))
            old, new = before.features(batch).cpu(), network.features(batch).cpu()
            moved.append((new.double() - old.double()).norm(dim=1))
            lengths.append(old.double().norm(dim=1))
    distance, length = torch.cat(moved), torch.cat(lengths)
    some = length > 0
    relative = float((distance[some] / length[some]).mean()) if some.any() else 0.0
    return Distortion(float(distance.mean()), relative)

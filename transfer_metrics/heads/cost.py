"""What training and storing a head costs: floating point operations and bytes.

The formulas are Head2Toe's (Evci et al., ICML 2022, section on cost): a backward pass counts twice
a forward pass, and a multiplication and an addition are two operations.
"""

from __future__ import annotations

from typing import NamedTuple

from transfer_metrics.heads.base import Head
from transfer_metrics.sources.models.model import Model

BYTES_PER_NUMBER = 4


class Cost(NamedTuple):
    """What one fitted head costs.

    Attributes:
        train_flops: operations of the final training, without any search for its settings; for
            heads on features with the forward passes that make them.
        stored_bytes: what has to be kept for the task beside the pretrained network.
    """

    train_flops: int
    stored_bytes: int


def cost_of(head: Head, forward: int, examples: int) -> Cost:
    """The cost of a fitted head.

    Args:
        head: a head fitted on a model.
        forward: operations of one forward pass of one example, from ``forward_flops``.
        examples: training examples.
    """
    kept, classes = head.coef_.shape[1], len(head.classes_)
    total = getattr(head, "candidates_", None)
    if head.network_ is not None:
        flops = finetune_flops(head.run_steps_, min(head.batch_size, examples), forward)
        tensors = head.network_.backbone.state_dict().values()
        return Cost(flops, network_bytes(sum(t.numel() for t in tensors), kept, classes))
    flops = examples * forward + head_flops(*head.training_reads(examples), classes)
    return Cost(flops, head_bytes(kept, classes, total))


def forward_flops(model: Model) -> int:
    """Operations of one forward pass of one example, counted by torch on a meaningless input.

    Convolutions, matrix products and attention count; element-wise operations do not.

    Raises:
        InvalidInputError: the shape of the input is not known.

    Cost: one forward pass.

    >>> from transfer_metrics.sources.models.load_model import load_model
    >>> forward_flops(load_model("zoo:resnet-random")) > 1_000_000
    True
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from transfer_metrics.features.layers import place
    from transfer_metrics.sources.models.modules import evaluation

    batch = place(model.dummy(1), model.module)
    with FlopCounterMode(display=False) as counter, evaluation(model.module), torch.no_grad():
        model(batch)
    return int(counter.get_total_flops())


def head_flops(reads: int, dim: int, num_classes: int) -> int:
    """Operations of training a linear head on features: 6 D C whenever an example is read.

    >>> head_flops(reads=40, dim=3, num_classes=2)
    1440
    """
    return reads * 6 * dim * num_classes


def finetune_flops(steps: int, batch_size: int, forward: int) -> int:
    """Operations of training a whole network: three forward passes per example and step.

    >>> finetune_flops(steps=10, batch_size=4, forward=100)
    12000
    """
    return steps * batch_size * 3 * forward


def head_bytes(kept: int, num_classes: int, total: int | None = None) -> int:
    """Bytes of a linear head over kept features, with a bitmask over all where some are left out.

    Args:
        kept: features that the head reads.
        num_classes: C; weights and biases in float32.
        total: features that it was chosen from.

    >>> head_bytes(kept=10, num_classes=2), head_bytes(kept=10, num_classes=2, total=100)
    (88, 101)
    """
    head = (kept + 1) * num_classes * BYTES_PER_NUMBER
    return head if total is None or total == kept else head + -(-total // 8)


def network_bytes(parameters: int, kept: int, num_classes: int) -> int:
    """Bytes of a network of its own for a task: all its parameters and buffers, and the head.

    >>> network_bytes(parameters=1000, kept=10, num_classes=2)
    4088
    """
    return parameters * BYTES_PER_NUMBER + head_bytes(kept, num_classes)

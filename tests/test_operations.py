"""Operations are counted as torch counts them, and nothing is loaded for it."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from transfer_metrics.features.operations import Operations


class Mixed(nn.Module):
    """Convolutions, attention, recurrence and what is written in place."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, groups=1)
        self.own = nn.Conv2d(8, 8, 3, groups=8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.again = nn.LSTM(8, 5, batch_first=True)

    def forward(self, x):
        x = self.own(self.stem(x).relu_())
        x = self.block(x.flatten(2).mT)
        return self.again(x)[0] @ torch.ones(5, 2)


def test_products_are_counted_as_torch_counts_them():
    network, x = Mixed().eval(), torch.randn(2, 3, 8, 8)
    for no_gradients in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with no_gradients():
            with FlopCounterMode(display=False) as expected:
                network(x)
            with Operations() as found:
                network(x)
        assert found.multiplied == expected.get_total_flops() > 0


def test_numbers_that_are_written_by_hand():
    x = torch.zeros(4, 6)
    with Operations() as found:
        x.view(3, 8).T[1:]  # looks at them only
        x.add_(1)  # 24
        torch.cat([x, x[:1]])  # 30
        x.amax(dim=1)  # 4
    assert (found.multiplied, found.written) == (0, 24 + 30 + 4)


def test_counting_loads_no_compiler():
    code = (
        "import sys, torch\n"
        "from transfer_metrics.features.operations import Operations\n"
        "with Operations() as found: torch.nn.Linear(3, 2)(torch.ones(1, 3))\n"
        "assert found.multiplied == 12\n"
        "print([m for m in ('torch._dynamo', 'sympy') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"

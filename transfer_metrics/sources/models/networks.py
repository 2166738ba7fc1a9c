"""Five small network families for 32x32 images, the architectures of the bundled zoo.

One class per family, each with the same outline: ``stem``, then ``blocks`` (one entry per block of
the paper's kind), then where the family has it a last ``tail`` or ``norm``, then the linear
classifier ``head``. Activations are modules, so that hooks see every one of them. The factories
(``cnn``, ``resnet``, ``mobilenet``, ``vit``, ``mixer``) hold the widths used in the zoo; weights
are random until :func:`transfer_metrics.sources.zoo.build` loads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


class ConvNet(nn.Module):
    """Stem, blocks, optional tail, global average pooling and a linear head of ``width`` inputs."""

    def __init__(
        self,
        stem: nn.Module,
        blocks: Sequence[nn.Module],
        width: int,
        num_classes: int,
        tail: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.blocks = nn.Sequential(*blocks)
        if tail is not None:
            self.tail = tail
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (N, 3, H, W) to logits (N, num_classes)."""
        for module in self.children():
            x = module(x)
        return x


def _conv_norm(
    in_width: int, width: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    conv = nn.Conv2d(in_width, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return [conv, nn.BatchNorm2d(width)]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., 2016, figure 5 left)."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv_norm(in_width, width, stride=stride)
        self.act1 = nn.ReLU()
        self.conv2, self.norm2 = _conv_norm(width, width)
        same = stride == 1 and in_width == width
        projection = [] if same else _conv_norm(in_width, width, kernel=1, stride=stride)
        self.shortcut = nn.Sequential(*projection)
        self.act2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, in_width, H, W) to (N, width, H / stride, W / stride)."""
        y = self.act1(self.norm1(self.conv1(x)))
        return self.act2(self.norm2(self.conv2(y)) + self.shortcut(x))


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project back linearly (Sandler et al., 2018, figure 4)."""

    def __init__(self, in_width: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_width * expansion
        self.expand = nn.Sequential(*_conv_norm(in_width, hidden, kernel=1), nn.ReLU6())
        self.depthwise = nn.Sequential(
            *_conv_norm(hidden, hidden, stride=stride, groups=hidden), nn.ReLU6()
        )
        self.project = nn.Sequential(*_conv_norm(hidden, width, kernel=1))
        self.residual = stride == 1 and in_width == width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, in_width, H, W) to (N, width, H / stride, W / stride)."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class Mlp(nn.Sequential):
    """Two linear layers over the last axis with a GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class Attention(nn.Module):
    """Multi-head self-attention over tokens (N, T, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, T, width) to the same shape."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Attention and MLP, each normalised before and added to its input."""

    def __init__(self, width: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, ratio * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map tokens (N, T, width) to the same shape."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class MixerBlock(nn.Module):
    """One MLP across the tokens, one across the channels (Tolstikhin et al., 2021, figure 1)."""

    def __init__(self, tokens: int, width: int, token_hidden: int, ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.token_mlp = Mlp(tokens, token_hidden)
        self.norm2 = nn.LayerNorm(width)
        self.channel_mlp = Mlp(width, ratio * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map tokens (N, T, width) to the same shape."""
        x = x + self.token_mlp(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channel_mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """A class token and 8x8 image tokens through transformer blocks (Dosovitskiy et al., 2021).

    The stem is two strided convolutions instead of one patch projection, which lets so small a
    transformer learn from a few thousand images (Xiao et al., 2021).
    """

    def __init__(self, num_classes: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *_conv_norm(3, width // 2, stride=2), nn.ReLU(), *_conv_norm(width // 2, width, 3, 2)
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 65, width).normal_(std=0.02))
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, 4) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (N, 3, 32, 32) to logits (N, num_classes)."""
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


class MlpMixer(nn.Module):
    """8x8 patches through mixer blocks, averaged before the head (Tolstikhin et al., 2021)."""

    def __init__(self, num_classes: int, width: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, stride=4)
        self.blocks = nn.Sequential(*(MixerBlock(64, width, 64, 2) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (N, 3, 32, 32) to logits (N, num_classes)."""
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(dim=1))


def cnn(num_classes: int = 10, widths: Sequence[int] = (24, 48, 96, 160)) -> ConvNet:
    """Plain convolutional network: every block halves the resolution, then convolves."""
    blocks = [
        nn.Sequential(nn.MaxPool2d(2), *_conv_norm(before, after), nn.ReLU())
        for before, after in pairwise(widths)
    ]
    stem = nn.Sequential(*_conv_norm(3, widths[0]), nn.ReLU())
    return ConvNet(stem, blocks, widths[-1], num_classes)


def resnet(
    num_classes: int = 10,
    widths: Sequence[int] = (24, 48, 96, 128),
    strides: Sequence[int] = (1, 2, 2, 1),
) -> ConvNet:
    """Residual network of basic blocks behind a 3x3 convolution and a max pooling."""
    before = (widths[0], *widths[:-1])
    blocks = [BasicBlock(*spec) for spec in zip(before, widths, strides, strict=True)]
    stem = nn.Sequential(*_conv_norm(3, widths[0]), nn.ReLU(), nn.MaxPool2d(2))
    return ConvNet(stem, blocks, widths[-1], num_classes)


def mobilenet(
    num_classes: int = 10,
    widths: Sequence[int] = (24, 40, 40, 80, 80),
    strides: Sequence[int] = (1, 2, 1, 2, 1),
) -> ConvNet:
    """Inverted residual blocks, expansion 4, between a strided 3x3 stem and a 1x1 tail."""
    before = (widths[0], *widths[:-1])
    blocks = [InvertedResidual(*spec, 4) for spec in zip(before, widths, strides, strict=True)]
    stem = nn.Sequential(*_conv_norm(3, widths[0], stride=2), nn.ReLU6())
    tail = nn.Sequential(*_conv_norm(widths[-1], 192, kernel=1), nn.ReLU6())
    return ConvNet(stem, blocks, 192, num_classes, tail)


def vit(
    num_classes: int = 10, width: int = 64, depth: int = 4, heads: int = 2
) -> VisionTransformer:
    """Vision transformer with 64 image tokens and a class token; ``heads`` divide ``width``."""
    return VisionTransformer(num_classes, width, depth, heads)


def mixer(num_classes: int = 10, width: int = 80, depth: int = 5) -> MlpMixer:
    """MLP-Mixer with 64 tokens from 4x4 patches."""
    return MlpMixer(num_classes, width, depth)

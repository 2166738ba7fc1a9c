"""Small published architectures, written as plain modules to test with.

Each factory takes no argument and returns a network with a ``pretrained_cfg``, so that
``load_model("tests.plain_networks:cifar10_resnet20=weights.safetensors")`` works.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
BYTES = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}
GREY_HALF = {"mean": (0.5,), "std": (0.5,)}
GREY = {"mean": (0.0,), "std": (1.0,)}


def configured(module: nn.Module, size: int, norm: dict, classifier: str) -> nn.Module:
    """Attach the input settings in timm's convention."""
    module.pretrained_cfg = {
        "input_size": (len(norm["mean"]), size, size),
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "classifier": classifier,
        **norm,
    }
    return module.eval()


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: the smaller half goes first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pads = []
        for length, kernel, stride in zip(
            x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True
        ):
            total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads))


class SeparableBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.dw = SameConv2d(inputs, inputs, 3, stride, groups=inputs)
        self.pw = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu6(self.pw(F.relu6(self.dw(x))))


class MobileNetV1(nn.Module):
    """MobileNet (Howard et al. 2017) with BatchNorm folded into the biases."""

    CHANNELS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)

    def __init__(self, width: float) -> None:
        super().__init__()
        channels = [int(32 * width)] + [int(c * width) for c in self.CHANNELS]
        self.stem = SameConv2d(3, channels[0], 3, 2)
        self.blocks = nn.Sequential(
            *(SeparableBlock(channels[i], channels[i + 1], s) for i, s in enumerate(self.STRIDES))
        )
        self.fc = nn.Linear(channels[-1], 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.blocks(F.relu6(self.stem(x))).mean((2, 3)))


def mobilenetv1_025_128() -> nn.Module:
    return configured(MobileNetV1(0.25), 128, HALF, "fc")


def mobilenetv1_025_224() -> nn.Module:
    return configured(MobileNetV1(0.25), 224, HALF, "fc")


def mobilenetv1_050_160() -> nn.Module:
    return configured(MobileNetV1(0.5), 160, HALF, "fc")


def mobilenetv1_100_224() -> nn.Module:
    return configured(MobileNetV1(1.0), 224, HALF, "fc")


class InvertedResidual(nn.Module):
    def __init__(
        self, inputs: int, middle: int, kernel: int, stride: int, outputs: int, residual: int
    ) -> None:
        super().__init__()
        self.expand = nn.Conv2d(inputs, middle, 1) if middle != inputs else None
        self.dw = nn.Conv2d(middle, middle, kernel, stride, kernel // 2, groups=middle)
        self.project = nn.Conv2d(middle, outputs, 1)
        self.residual = bool(residual)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.dw(y)))
        return x + y if self.residual else y


class MCUNet(nn.Module):
    """MCUNet (Lin et al. 2020) for ImageNet, BatchNorm folded."""

    BLOCKS = (  # middle channels, kernel, stride, channels out, residual
        (16, 3, 1, 8, 0),
        (24, 7, 2, 16, 0),
        (96, 5, 1, 16, 1),
        (96, 7, 1, 16, 1),
        (80, 7, 1, 16, 1),
        (80, 7, 2, 24, 0),
        (96, 5, 1, 24, 1),
        (144, 7, 1, 24, 1),
        (144, 7, 2, 40, 0),
        (200, 5, 1, 40, 1),
        (160, 3, 1, 40, 1),
        (200, 5, 1, 48, 0),
        (192, 5, 1, 48, 1),
        (192, 5, 1, 48, 1),
        (192, 5, 1, 48, 1),
        (240, 7, 2, 96, 0),
        (384, 5, 1, 96, 1),
        (384, 3, 1, 96, 1),
        (576, 3, 1, 160, 0),
    )

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        inputs = [16] + [block[3] for block in self.BLOCKS]
        self.blocks = nn.Sequential(
            *(InvertedResidual(inputs[i], *block) for i, block in enumerate(self.BLOCKS))
        )
        self.fc = nn.Linear(inputs[-1], 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.blocks(F.relu6(self.stem(x))).mean((2, 3)))


def mcunet_imagenet() -> nn.Module:
    return configured(MCUNet(), 144, HALF, "fc")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a parameter-free shortcut (He et al. 2016, option A)."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.pad = planes // 4 if stride != 1 or inputs != planes else 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.pad:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(x + y)


class CifarResNet(nn.Module):
    """ResNet for 32x32 images, ``6n + 2`` layers deep (He et al. 2016, section 4.2)."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, n, 1)
        self.layer2 = self._stage(16, 32, n, 2)
        self.layer3 = self._stage(32, 64, n, 2)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _stage(inputs: int, planes: int, n: int, stride: int) -> nn.Sequential:
        first = BasicBlock(inputs, planes, stride)
        return nn.Sequential(first, *(BasicBlock(planes, planes, 1) for _ in range(n - 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def cifar10_resnet20() -> nn.Module:
    return configured(CifarResNet(3), 32, IMAGENET, "linear")


def cifar10_resnet32() -> nn.Module:
    return configured(CifarResNet(5), 32, IMAGENET, "linear")


def cifar10_resnet44() -> nn.Module:
    return configured(CifarResNet(7), 32, IMAGENET, "linear")


def cifar10_resnet56() -> nn.Module:
    return configured(CifarResNet(9), 32, IMAGENET, "linear")


class FoldedBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = SameConv2d(inputs, outputs, 3, stride)
        self.conv2 = SameConv2d(outputs, outputs, 3)
        self.skip = SameConv2d(inputs, outputs, 1, stride) if stride != 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        return F.relu(y + (x if self.skip is None else self.skip(x)))


class TinyResNet8(nn.Module):
    """The ResNet-8 of the MLPerf Tiny benchmark, BatchNorm folded."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = SameConv2d(3, width, 3)
        self.block1 = FoldedBlock(width, width, 1)
        self.block2 = FoldedBlock(width, 2 * width, 2)
        self.block3 = FoldedBlock(2 * width, 4 * width, 2)
        self.fc = nn.Linear(4 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block3(self.block2(self.block1(F.relu(self.stem(x)))))
        return self.fc(x.mean((2, 3)))


def cifar10_resnet8() -> nn.Module:
    return configured(TinyResNet8(16), 32, BYTES, "fc")


def cifar10_resnet8_large() -> nn.Module:
    return configured(TinyResNet8(40), 32, BYTES, "fc")


class LeNet(nn.Module):
    """The network of the PyTorch tutorial on CIFAR-10."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2).flatten(1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


def cifar10_lenet() -> nn.Module:
    return configured(LeNet(), 32, HALF, "fc3")


def quantised(x: torch.Tensor) -> torch.Tensor:
    """Inputs in [-1, 1] on the grid of a signed 8-bit accelerator."""
    return (x * 128).round().clamp(-128, 127) / 128


def clamped(x: torch.Tensor) -> torch.Tensor:
    """ReLU with the largest positive 8-bit activation as its ceiling."""
    return x.clamp(0, 127 / 128)


class Net5(nn.Module):
    """Four convolutions and a classifier for 28x28 images on an 8-bit accelerator."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 60, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(60, 60, 3, padding=2, bias=False)
        self.conv3 = nn.Conv2d(60, 56, 3, padding=1, bias=False)
        self.conv4 = nn.Conv2d(56, 12, 3, padding=1, bias=False)
        self.fc = nn.Linear(192, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = clamped(self.conv1(quantised(x)))
        x = clamped(self.conv2(F.max_pool2d(x, 2)))
        x = clamped(self.conv3(F.max_pool2d(x, 2)))
        x = clamped(self.conv4(F.avg_pool2d(x, 2)))
        return self.fc(x.flatten(1))


def mnist_net5() -> nn.Module:
    return configured(Net5(), 28, GREY_HALF, "fc")


def fashion_net5() -> nn.Module:
    return configured(Net5(), 28, GREY_HALF, "fc")


class CDNet(nn.Module):
    """Six convolutions and a classifier for cats and dogs on an 8-bit accelerator."""

    CHANNELS = (3, 16, 32, 64, 32, 32, 16)

    def __init__(self) -> None:
        super().__init__()
        for i in range(6):
            conv = nn.Conv2d(self.CHANNELS[i], self.CHANNELS[i + 1], 3, padding=1, bias=False)
            self.add_module(f"conv{i + 1}", conv)
        self.fc = nn.Linear(1024, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = clamped(self.conv1(quantised(x)))
        for conv in (self.conv2, self.conv3, self.conv4, self.conv5):
            x = clamped(conv(F.max_pool2d(x, 2)))
        return self.fc(clamped(self.conv6(x)).flatten(1))


def cats_dogs_cdnet() -> nn.Module:
    return configured(CDNet(), 128, HALF, "fc")


class DoodleNet(nn.Module):
    """Three pairs of convolutions for drawings; flattened with the channels last."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 16, 16, 32, 32, 64, 64)
        for i in range(6):
            self.add_module(f"conv{i + 1}", nn.Conv2d(widths[i], widths[i + 1], 3, padding=1))
        self.fc1 = nn.Linear(576, 512)
        self.fc2 = nn.Linear(512, 345)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        x = F.max_pool2d(F.relu(self.conv4(F.relu(self.conv3(x)))), 2)
        x = F.max_pool2d(F.relu(self.conv6(F.relu(self.conv5(x)))), 2)
        return self.fc2(torch.tanh(self.fc1(x.permute(0, 2, 3, 1).flatten(1))))


def quickdraw_doodlenet() -> nn.Module:
    return configured(DoodleNet(), 28, GREY, "fc2")


PLAIN = (
    *("mobilenetv1_025_128", "mobilenetv1_025_224", "mobilenetv1_050_160", "mobilenetv1_100_224"),
    *("mcunet_imagenet", "cifar10_resnet20", "cifar10_resnet32", "cifar10_resnet56"),
    *("cifar10_resnet8", "cifar10_resnet8_large", "cifar10_lenet", "cats_dogs_cdnet"),
    *("mnist_net5", "fashion_net5", "quickdraw_doodlenet"),
)
# Name of the file: architecture of timm, constructor options, input size.
TIMM = {
    "mobilenetv2_050_96": ("mobilenetv2_050", "pad_type=same, ", 96),
    "mobilenetv2_075_128": ("mobilenetv2_075", "pad_type=same, ", 128),
    "mobilenetv2_075_224": ("mobilenetv2_075", "pad_type=same, ", 224),
    "mobilenetv2_100_96": ("mobilenetv2_100", "pad_type=same, ", 96),
    "mobilenetv2_100_224_tf2": ("mobilenetv2_100", "pad_type=same, ", 224),
    "mobilenetv2_inat_bird": ("mobilenetv2_100", "pad_type=same, num_classes=965, ", 224),
    "mobilenetv3_large_minimal_100": ("tf_mobilenetv3_large_minimal_100", "", 224),
}
# The mean of Caffe's preprocessing, and pixels of 0..255.
CAFFE = (
    "mean=(0.4823529411764706, 0.4588235294117647, 0.40784313725490196), std=0.00392156862745098"
)


def shared_models(folder: str | Path) -> dict[str, str]:
    """Specifications of the 23 reference models whose weights lie in ``folder``."""
    folder = Path(folder)
    heads = {name: f"tests.plain_networks:{name}" for name in PLAIN}
    for name, (architecture, options, size) in TIMM.items():
        inputs = f"input_size={size}, mean=0.5, std=0.5, interpolation=bilinear, crop_pct=1.0"
        heads[name] = f"timm:{architecture}({options}{inputs})"
    heads["squeezenet1_1"] = f"torchvision:squeezenet1_1({CAFFE}, crop_pct=1.0)"
    return {name: f"{head}={folder / f'{name}.safetensors'}" for name, head in heads.items()}


def sized(spec: str, size: int) -> str:
    """A specification of ``shared_models`` for inputs of another size."""
    head, _, weights = spec.rpartition("=")
    if head.startswith("tests."):
        head = f"{head}(input_size={size})"
    elif "input_size=" in head:
        head = re.sub(r"input_size=\d+", f"input_size={size}", head)
    else:
        head = f"{head.removesuffix(')')}, input_size={size})"
    return f"{head}={weights}"

"""Tiny image models of transformers with random weights, one per family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.text_models import SMALL, library

VISION = {**SMALL, "image_size": 32, "patch_size": 8}
TEXT = {**SMALL, "vocab_size": 40}
TWO_TOWERS = {"text_config": TEXT, "vision_config": VISION}
CLASSES = {"num_labels": 5}
STAGES = {"hidden_sizes": [8, 16], "depths": [2, 2], **CLASSES}
DECODER = {
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 16,
}
WINDOWS = {"patch_size": 2, "embed_dim": 8, "num_heads": [2, 2], "window_size": 4}
PYRAMID = {"hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2]}

# Family -> class of the configuration, class of the model, settings.
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTConfig", "ViTForImageClassification", {**VISION, **CLASSES}),
    "deit": ("DeiTConfig", "DeiTForImageClassification", {**VISION, **CLASSES}),
    "beit": ("BeitConfig", "BeitForImageClassification", {**VISION, **CLASSES}),
    "dinov2": ("Dinov2Config", "Dinov2Model", VISION),
    "vit_mae": ("ViTMAEConfig", "ViTMAEForPreTraining", {**VISION, **DECODER}),
    "swin": (
        "SwinConfig",
        "SwinForImageClassification",
        {**WINDOWS, **CLASSES, "image_size": 32, "depths": [2, 2]},
    ),
    "convnext": ("ConvNextConfig", "ConvNextForImageClassification", {**STAGES, "num_stages": 2}),
    "resnet": (
        "ResNetConfig",
        "ResNetForImageClassification",
        {**STAGES, "embedding_size": 8, "layer_type": "basic"},
    ),
    "regnet": (
        "RegNetConfig",
        "RegNetForImageClassification",
        {**STAGES, "embedding_size": 8, "groups_width": 4},
    ),
    "mobilenet_v2": (
        "MobileNetV2Config",
        "MobileNetV2ForImageClassification",
        {**CLASSES, "depth_multiplier": 0.25, "image_size": 32},
    ),
    "segformer": (
        "SegformerConfig",
        "SegformerForImageClassification",
        {**PYRAMID, **CLASSES, "depths": [2, 2, 2, 2]},
    ),
    "clip": ("CLIPConfig", "CLIPModel", {**TWO_TOWERS, "projection_dim": 8}),
    "clip_vision": ("CLIPVisionConfig", "CLIPVisionModel", VISION),
    "siglip": ("SiglipConfig", "SiglipModel", TWO_TOWERS),
    "blip": ("BlipConfig", "BlipForConditionalGeneration", TWO_TOWERS),
}


def save(name: str, folder: Path) -> Path:
    """Write a model of a family with its processor; returns the folder."""
    config, model, settings = FAMILIES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = getattr(library(), model)(getattr(library(), config)(**settings))
        network.save_pretrained(folder)
    library().ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder

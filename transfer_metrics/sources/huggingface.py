"""Image and text models from the Hugging Face hub or a local folder in its layout."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from transfer_metrics.errors import InvalidInputError, TransferMetricsError, UnsupportedTaskError
from transfer_metrics.sources.base import Model
from transfer_metrics.sources.classifier import last_linear
from transfer_metrics.sources.optional import require
from transfer_metrics.sources.preprocess import to_mode
from transfer_metrics.sources.specs import ModelSpec

_LONGEST = 512


@dataclass(frozen=True)
class Pixels:
    """One image through a processor of transformers."""

    processor: Any

    def __call__(self, image: Any) -> torch.Tensor:
        """One image to one (C, H, W) tensor."""
        batch = self.processor(images=to_mode(image, "RGB"), return_tensors="pt")
        return batch["pixel_values"][0]


def stack_pixels(inputs: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors to the keyword arguments of an image model."""
    return {"pixel_values": torch.stack(inputs)}


def plain_text(example: Any) -> Any:
    """Texts stay as they are until a batch is made, where they are tokenised together."""
    return example


@dataclass(frozen=True, repr=False)
class Tokens:
    """Texts, or pairs of them, to padded token ids with their mask."""

    tokenizer: Any
    longest: int

    def __call__(self, texts: list[Any]) -> dict[str, torch.Tensor]:
        """Strings or pairs of strings to the keyword arguments of a text model."""
        pairs = [text if isinstance(text, (tuple, list)) else (text, None) for text in texts]
        first, second = (list(part) for part in zip(*pairs, strict=True))
        batch = self.tokenizer(
            first,
            None if None in second else second,
            padding=True,
            truncation=True,
            max_length=self.longest,
            return_tensors="pt",
        )
        return dict(batch)

    def __repr__(self) -> str:
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        fast = getattr(self.tokenizer, "backend_tokenizer", None)
        content = f"{vocabulary}{self.tokenizer.special_tokens_map}"
        content += fast.to_str() if fast is not None else type(self.tokenizer).__name__
        digest = hashlib.sha256(content.encode()).hexdigest()
        return f"Tokens({digest}, longest={self.longest})"


def from_huggingface(spec: ModelSpec) -> Model:
    """Load ``hf:name@revision`` or ``hf:folder`` with its processor or tokenizer.

    Image classifiers keep their head; everything else is loaded as the bare network. Of
    encoder-decoder models the encoder is used, of image-text models the image tower.
    """
    if spec.name.startswith((".", "/", "~")) and not os.path.isdir(os.path.expanduser(spec.name)):
        raise InvalidInputError(f"model {spec.text!r}: there is no folder {spec.name!r}")
    transformers = require("transformers", f"model {spec.text!r}")
    place: dict[str, Any] = {"revision": spec.revision} if spec.revision else {}
    name = os.path.expanduser(spec.name) if spec.name.startswith("~") else spec.name
    try:
        config = transformers.AutoConfig.from_pretrained(name, **place)
        if _known(transformers, "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING", config) or _known(
            transformers, "IMAGE_PROCESSOR_MAPPING", config
        ):
            model = _image_model(transformers, spec, name, config, place)
        elif _known(transformers, "TOKENIZER_MAPPING", config):
            model = _text_model(transformers, spec, name, config, place)
        else:
            raise UnsupportedTaskError(
                f"model {spec.text!r} ({config.model_type}) reads neither images nor text"
            )
    except TransferMetricsError:
        raise
    except Exception as error:  # hub, file and configuration errors of many kinds
        line = str(error).splitlines()[0] if str(error) else ""
        raise InvalidInputError(
            f"model {spec.text!r} could not be loaded ({type(error).__name__}: {line}); check the "
            f"name, fetch it once with a network (hf download {spec.name}), or give a folder "
            f"written by save_pretrained: hf:path/to/folder"
        ) from error
    return model


def _known(transformers: Any, mapping: str, config: Any) -> bool:
    auto = transformers.models.auto
    for part in ("modeling_auto", "tokenization_auto", "image_processing_auto"):
        found = getattr(getattr(auto, part), mapping, None)
        if found is not None:
            return type(config) in found
    return False


def _image_model(
    transformers: Any, spec: ModelSpec, name: str, config: Any, place: dict[str, Any]
) -> Model:
    architectures = getattr(config, "architectures", None) or []
    classifies = any(a.endswith("ForImageClassification") for a in architectures)
    if hasattr(config, "mask_ratio"):
        config.mask_ratio = 0.0  # masked autoencoders would hide most of the image
    auto = transformers.AutoModelForImageClassification if classifies else transformers.AutoModel
    module = _load(transformers, auto, spec, name, config, place, bare=not classifies)
    module = getattr(module, "vision_model", module) if hasattr(config, "text_config") else module
    modern = int(transformers.__version__.split(".")[0]) >= 5
    backend: dict[str, Any] = {"backend": "pil"} if modern else {"use_fast": False}
    processor = transformers.AutoImageProcessor.from_pretrained(name, **backend, **place)
    preprocess = Pixels(processor)
    from PIL import Image

    shape = tuple(preprocess(Image.new("RGB", (64, 64))).shape)
    head = last_linear(module, config.num_labels) if classifies else None
    return _model(spec, module, config, preprocess, "image", head, shape, stack_pixels)


def _text_model(
    transformers: Any, spec: ModelSpec, name: str, config: Any, place: dict[str, Any]
) -> Model:
    tokenizer = transformers.AutoTokenizer.from_pretrained(name, **place)
    module: Any = _load(transformers, transformers.AutoModel, spec, name, config, place, bare=True)
    if getattr(config, "is_encoder_decoder", False):
        module = module.get_encoder()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    # RoBERTa and its kin number positions from padding + 1, which costs two of them.
    room = (getattr(config, "max_position_embeddings", None) or _LONGEST + 2) - 2
    limit = tokenizer.model_max_length
    longest = min(_LONGEST, limit if limit < 1_000_000 else room)
    tokens = Tokens(tokenizer, longest)
    return _model(spec, module, config, plain_text, "text", None, None, tokens)


def _load(
    transformers: Any,
    auto: Any,
    spec: ModelSpec,
    name: str,
    config: Any,
    place: dict[str, Any],
    bare: bool,
) -> nn.Module:
    options: dict[str, Any] = dict(place)
    if bare:
        mapping = transformers.models.auto.modeling_auto.MODEL_MAPPING
        target = mapping.get(type(config), None)
        if inspect.isclass(target) and "add_pooling_layer" in inspect.signature(target).parameters:
            options["add_pooling_layer"] = False  # it would often be random
    module, info = auto.from_pretrained(name, config=config, output_loading_info=True, **options)
    lost = sorted(info["missing_keys"]) + [str(key) for key in info.get("mismatched_keys") or ()]
    if lost:
        raise InvalidInputError(
            f"model {spec.text!r}: {len(lost)} of its weights are not in the checkpoint "
            f"({', '.join(lost[:3])}{', …' if len(lost) > 3 else ''}) and would be random; choose "
            f"another checkpoint"
        )
    return module.float()


def _model(
    spec: ModelSpec,
    module: nn.Module,
    config: Any,
    preprocess: Callable[[Any], Any],
    modality: Any,
    head: str | None,
    shape: tuple[int, ...] | None,
    collate: Callable[[list[Any]], Any],
) -> Model:
    revision = spec.revision or getattr(config, "_commit_hash", None) or ""
    return Model(spec.text, module, preprocess, modality, head, shape, revision, collate)

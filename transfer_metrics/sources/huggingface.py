"""Image and text models from the Hugging Face hub or a local folder in its layout."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
from collections.abc import Iterator
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
from transfer_metrics.sources.tokens import Tokens

_LONGEST = 512
"""Tokens of a text that are read at most, also by models that could read more."""


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


def from_huggingface(spec: ModelSpec) -> Model:
    """Load ``hf:name@revision`` or ``hf:folder`` with its processor or tokenizer.

    A name that is in the local cache is loaded from there without asking the hub for something
    newer. Image classifiers keep their head; everything else is loaded as the bare network. Of
    encoder-decoder models the encoder is used, since the decoder has no text of its own to read
    before anything is generated; of image-text models the image tower.
    """
    if spec.name.startswith((".", "/", "~")) and not os.path.isdir(os.path.expanduser(spec.name)):
        raise InvalidInputError(f"model {spec.text!r}: there is no folder {spec.name!r}")
    transformers = require("transformers", f"model {spec.text!r}")
    name = os.path.expanduser(spec.name)
    cached = None if os.path.isdir(name) else _cached_folder(name, spec.revision)
    if cached is not None:
        try:
            return _loaded(transformers, spec, cached, {}, os.path.basename(cached))
        except TransferMetricsError:
            raise
        except Exception:  # a file of it is lacking: ask the hub
            pass
    place: dict[str, Any] = {"revision": spec.revision} if spec.revision else {}
    try:
        return _loaded(transformers, spec, name, place)
    except TransferMetricsError:
        raise
    except Exception as error:  # hub, file and configuration errors of many kinds
        line = str(error).splitlines()[0] if str(error) else ""
        raise InvalidInputError(
            f"model {spec.text!r} could not be loaded ({type(error).__name__}: {line}); check the "
            f"name, fetch it once with a network (hf download {spec.name}), or give a folder "
            f"written by save_pretrained: hf:path/to/folder"
        ) from error


def _cached_folder(name: str, revision: str) -> str | None:
    """Where the local cache of the hub has a model, if it has it."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision or None)
    except ValueError:  # no name that the hub could have
        return None
    return os.path.dirname(found) if isinstance(found, str) else None


def _loaded(
    transformers: Any, spec: ModelSpec, name: str, place: dict[str, Any], commit: str = ""
) -> Model:
    """Load from a folder, or by name with a revision."""
    with _quiet(transformers, local=os.path.isdir(name)):
        config = transformers.AutoConfig.from_pretrained(name, **place)
        if _known(transformers, "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING", config) or _known(
            transformers, "IMAGE_PROCESSOR_MAPPING", config
        ):
            model = _image_model(transformers, spec, name, config, place)
        else:
            model = _text_model(transformers, spec, name, config, place)
    revision = spec.revision or commit or getattr(config, "_commit_hash", None) or ""
    return dataclasses.replace(model, revision=revision)


@contextlib.contextmanager
def _quiet(transformers: Any, local: bool) -> Iterator[None]:
    """Without reports on weights, which are checked here, and bars other than of downloads."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if local:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if local and bars:
            logging.enable_progress_bar()


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
    return Model(spec.text, module, preprocess, "image", head, shape, "", stack_pixels)


def _text_model(
    transformers: Any, spec: ModelSpec, name: str, config: Any, place: dict[str, Any]
) -> Model:
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **place)
    except Exception as error:  # no such files, of which the library says it in many ways
        if hasattr(config, "vocab_size") or _known(transformers, "TOKENIZER_MAPPING", config):
            raise
        raise _neither(spec, config) from error
    if len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) <= 1:
        # The library makes an empty one where the files are missing, for which all is unknown.
        raise InvalidInputError(
            f"model {spec.text!r} has no vocabulary for its tokenizer; add the tokenizer's files, "
            f"such as tokenizer.json, to the folder"
        )
    if hasattr(config, "use_cache"):
        config.use_cache = False  # of keys and values, for generation
    module: Any = _load(transformers, transformers.AutoModel, spec, name, config, place, bare=True)
    if getattr(module, "main_input_name", "input_ids") != "input_ids":
        raise _neither(spec, config)
    if getattr(config, "is_encoder_decoder", False):
        module = module.get_encoder()
    if tokenizer.pad_token is None:  # masked, so it does not matter which token pads
        spare = tokenizer.eos_token or tokenizer.unk_token or tokenizer.bos_token
        tokenizer.pad_token = spare or tokenizer.convert_ids_to_tokens(0)
    tokenizer.padding_side = "right"  # absolute positions count from the first token
    tokens = Tokens(
        tokenizer,
        _longest(tokenizer, config),
        frozenset(inspect.signature(module.forward).parameters),
    )
    return Model(spec.text, module, plain_text, "text", None, None, "", tokens)


def _neither(spec: ModelSpec, config: Any) -> UnsupportedTaskError:
    return UnsupportedTaskError(
        f"model {spec.text!r} ({config.model_type}) reads neither images nor text"
    )


def _longest(tokenizer: Any, config: Any) -> int:
    """Tokens that the network may be given at a time."""
    limits = [_LONGEST]
    positions = getattr(config, "max_position_embeddings", None) or 0
    if tokenizer.model_max_length < 1_000_000:
        limits += [tokenizer.model_max_length, positions]
    else:
        # RoBERTa and its kin number positions from padding + 1, which costs two of them.
        limits.append(positions - 2)
    return min(limit for limit in limits if limit > 0)


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

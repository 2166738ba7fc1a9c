"""Models from the Hugging Face hub or a local folder in its layout: of images, text or sounds."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import nn

from transfer_metrics.errors import (
    InvalidInputError,
    MissingDependencyError,
    TransferMetricsError,
    UnsupportedTaskError,
    first_line,
)
from transfer_metrics.sources.models.classifier import last_linear
from transfer_metrics.sources.models.huggingface_audio import Waveform, Waves
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.models.tokens import Tokens
from transfer_metrics.sources.optional import require
from transfer_metrics.sources.preprocess import to_mode
from transfer_metrics.sources.specs import ModelSpec

# Unless told, the library asks on the terminal whether to run code from the model's files.
_SAFE = {"trust_remote_code": False}
_LONGEST = 512
"""Tokens of a text that are read at most, also by models that could read more."""


def from_huggingface(spec: ModelSpec) -> Model:
    """Load ``hf:name@revision`` or ``hf:folder`` with its processor or tokenizer.

    What is in the local cache is loaded from there. Code that comes with a model is never run: only
    architectures that transformers has itself can be loaded. Classifiers of images and of sounds
    keep their head; everything else is the bare network: of encoder-decoder models the encoder, of
    models that also read text the tower of images or sounds, and of a sentence encoder
    (``modules.json``) its transformer.
    """
    transformers = require("transformers", f"model {spec.text!r}")
    name = _transformer_folder(os.path.expanduser(spec.name), spec)
    place: dict[str, Any] = _SAFE | ({"revision": spec.revision} if spec.revision else {})
    places = [(name, place, "")]
    if not os.path.isdir(name) and (cached := _cached_folder(name, spec.revision)):
        # If a file of it is lacking, the hub is asked.
        places.insert(0, (cached, _SAFE, os.path.basename(cached)))
    failure = Exception()
    for where in places:
        try:
            return _loaded(transformers, spec, *where)
        except TransferMetricsError:
            raise
        except Exception as error:  # hub, file and configuration errors of many kinds
            failure = error
    if lacking := _lacking_package(failure):
        raise MissingDependencyError(
            f"model {spec.text!r} needs {lacking}, which is not installed; pip install {lacking}"
        ) from failure
    raise InvalidInputError(
        f"model {spec.text!r} could not be loaded ({type(failure).__name__}: "
        f"{first_line(failure)}); check the name, fetch it once with a network (hf download "
        f"{spec.name}), or give a folder written by save_pretrained: hf:path/to/folder"
    ) from failure


def _transformer_folder(name: str, spec: ModelSpec) -> str:
    """The folder of the network itself, where a local folder has it further down."""
    if os.path.isfile(os.path.join(name, "config.json")):
        return name
    if os.path.isfile(os.path.join(name, "adapter_config.json")):
        raise InvalidInputError(
            f"model {spec.text!r} is an adapter without its network; merge the two and give that: "
            f"PeftModel.from_pretrained(…).merge_and_unload().save_pretrained(folder)"
        )
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, IndexError):
        with open(os.path.join(name, "modules.json"), encoding="utf-8") as file:
            below = os.path.join(name, str(json.load(file)[0]["path"]))
        if os.path.isfile(os.path.join(below, "config.json")):
            return below
    return name


def _lacking_package(error: Exception) -> str:
    """The package that an import error of transformers asks for; empty if it is no such error."""
    if not isinstance(error, ImportError):
        return ""
    found = re.search(
        r"pip install ([\w.-]+)|requires the (\w+) library|No module named '(\w+)'", str(error)
    )
    return next(filter(None, found.groups()), "").lower() if found else ""


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
        checkpoint = _Checkpoint(transformers, spec, name, config, place)
        build = {"image": _image_model, "text": _text_model, "audio": _audio_model}
        model = build[_reads(transformers, config)](checkpoint)
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


@dataclass(frozen=True)
class _Checkpoint:
    """What a network is loaded from; ``place`` are arguments of every ``from_pretrained``."""

    library: Any
    spec: ModelSpec
    name: str
    config: Any
    place: dict[str, Any]

    def part(self, loader: Any, **options: Any) -> Any:
        return loader.from_pretrained(self.name, **options, **self.place)

    def classifies(self, *endings: str) -> bool:
        """Whether the checkpoint is of a classifier, told by the name of its class."""
        names = getattr(self.config, "architectures", None) or []
        return any(name.endswith(endings) for name in names)

    def network(self, auto: Any, *, bare: bool, tower: str = "") -> nn.Module:
        """The network of an auto class of transformers, in float32, with all of its weights.

        A ``bare`` one has no pooler at its end, which is often random. Of one that has a part named
        ``tower``, only that is kept.
        """
        options: dict[str, Any] = dict(self.place)
        target = _base(self.library, self.config)
        takes = inspect.signature(target).parameters if inspect.isclass(target) else {}
        if bare and "add_pooling_layer" in takes:
            options["add_pooling_layer"] = False
        module, info = auto.from_pretrained(
            self.name, config=self.config, output_loading_info=True, **options
        )
        lost = sorted(info["missing_keys"])
        lost += [str(key) for key in info.get("mismatched_keys") or ()]
        if tower and hasattr(module, tower):
            module = getattr(module, tower)
            lost = [key for key in lost if key.startswith(f"{tower}.")]
        if lost:
            raise InvalidInputError(
                f"model {self.spec.text!r}: {len(lost)} of its weights are not in the checkpoint "
                f"({', '.join(lost[:3])}{', …' if len(lost) > 3 else ''}) and would be random; "
                f"choose another checkpoint"
            )
        return module.float()

    def neither(self) -> UnsupportedTaskError:
        return UnsupportedTaskError(
            f"model {self.spec.text!r} ({self.config.model_type}) reads neither images nor text "
            f"nor sounds"
        )


def _reads(library: Any, config: Any) -> str:
    """What a network reads: ``"image"``, ``"audio"``, or else ``"text"``."""
    given = getattr(_base(library, config), "main_input_name", "")
    images = ("MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING", "IMAGE_PROCESSOR_MAPPING")
    if given == "pixel_values" or any(_known(library, mapping, config) for mapping in images):
        return "image"
    sounds = given in ("input_values", "input_features") or hasattr(config, "audio_config")
    if sounds and _known(library, "FEATURE_EXTRACTOR_MAPPING", config):
        return "audio"
    return "text"


def _base(library: Any, config: Any) -> Any:
    """The class of the bare network."""
    return library.models.auto.modeling_auto.MODEL_MAPPING.get(type(config), None)


def _known(library: Any, mapping: str, config: Any) -> bool:
    parts = ("modeling", "tokenization", "image_processing", "feature_extraction")
    auto = (getattr(library.models.auto, f"{part}_auto") for part in parts)
    return any(type(config) in getattr(part, mapping, ()) for part in auto)


# ---------------------------------------------------------------- images


@dataclass(frozen=True)
class Pixels:
    """One image to one (C, H, W) tensor by a processor of transformers."""

    processor: Any

    def __call__(self, image: Any) -> torch.Tensor:
        """One image to one input."""
        batch = self.processor(images=to_mode(image, "RGB"), return_tensors="pt")
        return batch["pixel_values"][0]


@dataclass(frozen=True)
class UnshuffledPixels:
    """Tensors to the arguments of a masked autoencoder, with its patches in order.

    It would shuffle them by random numbers before it masks some, also where it masks none.
    """

    patches: int

    def __call__(self, inputs: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """One batch."""
        noise = torch.arange(float(self.patches)).repeat(len(inputs), 1)
        return {**stack_pixels(inputs), "noise": noise}


def stack_pixels(inputs: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors to the keyword arguments of an image model."""
    return {"pixel_values": torch.stack(inputs)}


def _image_model(of: _Checkpoint) -> Model:
    """A classifier of images, a bare network, or the image tower of a larger one."""
    library, config = of.library, of.config
    classifies = of.classifies("ForImageClassification")
    if hasattr(config, "mask_ratio"):
        config.mask_ratio = 0.0  # masked autoencoders would hide most of the image
    auto = library.AutoModelForImageClassification if classifies else library.AutoModel
    tower = "vision_model" if hasattr(config, "text_config") else ""
    module = of.network(auto, bare=not classifies, tower=tower)
    modern = int(library.__version__.split(".")[0]) >= 5
    backend: dict[str, Any] = {"backend": "pil"} if modern else {"use_fast": False}
    preprocess = Pixels(of.part(library.AutoImageProcessor, **backend))
    shape = tuple(preprocess(Image.new("RGB", (64, 64))).shape)
    head = last_linear(module, config.num_labels) if classifies else None
    collate: Callable[[list[torch.Tensor]], Any] = stack_pixels
    if "noise" in inspect.signature(module.forward).parameters:
        collate = UnshuffledPixels((config.image_size // config.patch_size) ** 2)
    return Model(of.spec.text, module, preprocess, "image", head, shape, "", collate)


# ---------------------------------------------------------------- text


def plain_text(example: Any) -> Any:
    """Texts stay as they are until a batch is made, where they are tokenised together."""
    return example


def _text_model(of: _Checkpoint) -> Model:
    """A bare text network: encoder, decoder, or the encoder of the two."""
    library, config = of.library, of.config
    try:
        tokenizer = of.part(library.AutoTokenizer)
    except Exception as error:  # no such files, of which the library says it in many ways
        if hasattr(config, "vocab_size") or _known(library, "TOKENIZER_MAPPING", config):
            raise
        raise of.neither() from error
    if len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) <= 1:
        # The library makes an empty one where the files are missing, for which all is unknown.
        raise InvalidInputError(
            f"model {of.spec.text!r} has no vocabulary for its tokenizer; add the tokenizer's "
            f"files, such as tokenizer.json, to the folder"
        )
    if hasattr(config, "use_cache"):
        config.use_cache = False  # of keys and values, for generation
    if getattr(config, "attention_type", "") == "block_sparse":
        config.attention_type = "original_full"  # BigBird does so itself, from a short text on
    module: Any = of.network(library.AutoModel, bare=True)
    if getattr(module, "main_input_name", "input_ids") != "input_ids":
        raise of.neither()
    if getattr(config, "is_encoder_decoder", False):
        module = module.get_encoder()
    if tokenizer.pad_token is None:  # masked, so it does not matter which token pads
        spare = tokenizer.eos_token or tokenizer.unk_token or tokenizer.bos_token
        tokenizer.pad_token = spare or tokenizer.convert_ids_to_tokens(0)
    tokenizer.padding_side = "right"  # absolute positions count from the first token
    longest = min(_LONGEST, tokenizer.model_max_length, *_sentence_limit(of))
    tokens = Tokens.of(tokenizer, module, longest)
    return Model(of.spec.text, module, plain_text, "text", None, None, "", tokens)


def _sentence_limit(of: _Checkpoint) -> list[int]:
    """Tokens that a sentence encoder reads by its own settings; none where it has none."""
    options = {k: v for k, v in of.place.items() if k == "revision"}
    try:
        path = of.library.utils.cached_file(of.name, "sentence_bert_config.json", **options)
        with open(path, encoding="utf-8") as file:
            return [limit for limit in [int(json.load(file)["max_seq_length"])] if limit > 0]
    except Exception:  # most models have no such file, which the library says in many ways
        return []


# ---------------------------------------------------------------- sounds


def _audio_model(of: _Checkpoint) -> Model:
    """A classifier of sounds, a bare network, or the encoder or audio tower of a larger one."""
    library, config = of.library, of.config
    classifies = of.classifies("ForAudioClassification", "ForSequenceClassification")
    auto = library.AutoModelForAudioClassification if classifies else library.AutoModel
    module: Any = of.network(auto, bare=not classifies, tower="audio_model")
    if getattr(config, "is_encoder_decoder", False) and not classifies:
        module = module.get_encoder()
    accepted = frozenset(inspect.signature(module.forward).parameters)
    if not accepted & {"input_values", "input_features"}:
        raise of.neither()
    fed = of.part(library.AutoFeatureExtractor), module.config, accepted
    waveform, waves = Waveform.of(*fed), Waves.of(*fed)
    head = last_linear(module, config.num_labels) if classifies else None
    shape = (waveform.rate,)  # a second of noise, to trace with
    return Model(of.spec.text, module, waveform, "audio", head, shape, "", waves)

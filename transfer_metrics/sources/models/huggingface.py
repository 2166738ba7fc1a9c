"""Models from the Hugging Face hub or a local folder in its layout."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterator
from typing import Any

from transfer_metrics.errors import (
    InvalidInputError,
    MissingDependencyError,
    TransferMetricsError,
)
from transfer_metrics.sources.models.huggingface_models import BUILDERS, Checkpoint, reads
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.optional import require
from transfer_metrics.sources.specs import ModelSpec

# Unless told, the library asks on the terminal whether to run code from the model's files.
_SAFE = {"trust_remote_code": False}


def from_huggingface(spec: ModelSpec) -> Model:
    """Load ``hf:name@revision`` or ``hf:folder`` with its processor or tokenizer.

    A name that is in the local cache is loaded from there without asking the hub for something
    newer. Code that comes with a model is never run: only architectures that transformers has
    itself can be loaded. Classifiers of images and of sounds keep their head; everything else is
    loaded as the bare network. Of encoder-decoder models the encoder is used, since the decoder has
    no text of its own to read before anything is generated; of models that also read text the
    tower of images or sounds. A folder of a sentence encoder (``modules.json``) is read as its
    transformer; its own pooling is one of ``pool=``.
    """
    if spec.name.startswith((".", "/", "~")) and not os.path.isdir(os.path.expanduser(spec.name)):
        raise InvalidInputError(
            f"model {spec.text!r}: there is no folder {spec.name!r}; check the path"
        )
    transformers = require("transformers", f"model {spec.text!r}")
    name = _transformer_folder(os.path.expanduser(spec.name), spec)
    cached = None if os.path.isdir(name) else _cached_folder(name, spec.revision)
    if cached is not None:
        try:
            return _loaded(transformers, spec, cached, _SAFE, os.path.basename(cached))
        except TransferMetricsError:
            raise
        except Exception:  # a file of it is lacking: ask the hub
            pass
    place: dict[str, Any] = _SAFE | ({"revision": spec.revision} if spec.revision else {})
    try:
        return _loaded(transformers, spec, name, place)
    except TransferMetricsError:
        raise
    except Exception as error:  # hub, file and configuration errors of many kinds
        lacking = _lacking_package(error)
        if lacking:
            raise MissingDependencyError(
                f"model {spec.text!r} needs {lacking}, which is not installed; pip install "
                f"{lacking}"
            ) from error
        line = str(error).splitlines()[0] if str(error) else ""
        raise InvalidInputError(
            f"model {spec.text!r} could not be loaded ({type(error).__name__}: {line}); check the "
            f"name, fetch it once with a network (hf download {spec.name}), or give a folder "
            f"written by save_pretrained: hf:path/to/folder"
        ) from error


def _transformer_folder(name: str, spec: ModelSpec) -> str:
    """The folder of the network itself, where a local folder has it further down.

    Raises:
        InvalidInputError: the folder holds no network but changes to one.
    """
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
        checkpoint = Checkpoint(transformers, spec, name, config, place)
        model = BUILDERS[reads(transformers, config)](checkpoint)
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

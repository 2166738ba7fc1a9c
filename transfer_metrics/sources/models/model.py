"""A network with its preprocessing, as a source hands it on."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transfer_metrics.errors import ExtractionError, InvalidInputError, TransferMetricsError
from transfer_metrics.naming import brief
from transfer_metrics.sources.example import Modality, PixelMap, Word, as_sound, example_modality
from transfer_metrics.sources.models.identity import describe, identity
from transfer_metrics.sources.models.modules import alone, plain_module
from transfer_metrics.sources.models.tokens import TextBatch

_PRECISIONS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_READ = {"image": "images", "text": "text", "audio": "sounds", "tensor": "arrays of numbers"}


@dataclass(frozen=True, eq=False)
class Model:
    """A network together with everything that is needed to feed it.

    Attributes:
        name: the specification that it was loaded from, or the class name of a module.
        module: the network; what compiles it or spreads it over devices is taken off.
        preprocess: one raw example (PIL image, string, pair of strings or word of a sentence,
            sound, float array) to one input; ``None`` takes float arrays as they are.
        modality: what the examples are: ``"image"``, ``"text"``, ``"audio"`` or ``"tensor"``.
        head: dotted path of the classifier whose output are the source logits, or ``None``.
        input_shape: shape of one input, (C, H, W) for images; ``None`` where it is free.
        revision: hub revision, name of the pretrained weights, or hash of the weights' file.
        collate: list of inputs to a batch; ``None`` stacks them.
        open_head: whether the classifier is a guess, or none, until it is looked for on the first
            examples of a task.
        least: examples that a batch must have at least; 2 where a network squeezes its axes.
        spec: the specification that it was loaded from, whatever its name; empty of a module.
    """

    name: str
    module: nn.Module
    preprocess: Callable[[Any], Any] | None
    modality: Modality
    head: str | None
    input_shape: tuple[int, ...] | None
    revision: str = ""
    collate: Callable[[list[Any]], Any] | None = None
    open_head: bool = False
    least: int = 1
    spec: str = ""
    __repr__ = brief

    def __post_init__(self) -> None:
        object.__setattr__(self, "module", plain_module(self.module))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over structure, parameters, all buffers, preprocessing and head.

        Independent of the device and of train or eval mode. The structure counts because two
        networks can share every tensor and still compute different things (padding, activation).
        What modules keep besides tensors (``get_extra_state``, packed weights) counts too, and so
        do buffers that are not saved.
        Cost: one pass over the weights, about a second per gigabyte, once and after weights were
        changed.
        """
        with alone(self.module):
            state = _written(self.module)
            known = self.__dict__.get("_known")
            if known is None or known[0] != state:
                fed = (describe(self.preprocess), describe(self.collate), self.modality)
                known = state, identity(self.module, *fed, str(self.head))
                self.__dict__["_known"] = known
        return str(known[1])

    def called(self, name: str) -> Model:
        """The same under another name; its fingerprint, which may be known, is the same."""
        if name == self.name:
            return self
        model = copy.copy(self)
        object.__setattr__(model, "name", name)
        return model

    def batch(self, examples: Sequence[Any]) -> Any:
        """Preprocess raw examples into one batch on the CPU.

        Float arrays (C, H, W) given to an image model count as preprocessed already, but for those
        that a task found to be pixels, and arrays (T,) given to an audio model as waveforms of the
        sampling rate that it reads. Whole numbers given to a network that begins with an embedding
        are numbers of its rows.

        Raises:
            InvalidInputError: the model reads another kind of example.
        """
        inputs = [self._input(example) for example in examples]
        if self.collate is not None:
            return self.collate(inputs)
        shapes = {tuple(x.shape) for x in inputs}
        if len(shapes) > 1:
            raise InvalidInputError(
                f"model {self.name!r}: examples of different shapes {sorted(shapes)[:3]} do not "
                f"form a batch; give the model a preprocess that resizes them"
            )
        batch = torch.stack(inputs)
        are_ids = self._reads_ids and bool(((batch >= 0) & (batch == batch.round())).all())
        return batch.long() if are_ids else batch

    @cached_property
    def _reads_ids(self) -> bool:
        """Whether the first layer with weights looks its inputs up."""
        leaves = (m for m in self.module.modules() if not [*m.children()])
        first = next((m for m in leaves if [*m.parameters()]), None)
        return isinstance(first, (nn.Embedding, nn.EmbeddingBag))

    def _input(self, example: Any) -> Any:
        if isinstance(example, PixelMap) and self.normalises:
            example = example.image()
        given = example_modality(example)
        ready = given == "tensor" and (
            self.preprocess is None or (self.modality == "image" and example.ndim == 3)
        )
        if ready and self.modality in ("image", "tensor"):
            if isinstance(example, np.ndarray):
                # Torch would warn of one that may not be written to.
                example = np.require(example, requirements="W")
            tensor = torch.as_tensor(example, dtype=torch.float32)
            # Of one axis it is the width of a layer, which may run later, or along the last axis.
            known = self.input_shape is not None and len(self.input_shape) > 1
            if known and len(self.input_shape or ()) != tensor.ndim:
                raise self._mismatch(given, f" of shape {tuple(tensor.shape)}")
            return tensor
        waveform = self.modality == "audio" and given == "tensor" and example.ndim == 1
        if (given != self.modality and not waveform) or self.preprocess is None:
            raise self._mismatch(given, "")
        return self.preprocess(example)

    def _mismatch(self, given: str, detail: str) -> InvalidInputError:
        wanted = _READ[self.modality]
        if self.modality == "tensor" and self.input_shape is not None:
            wanted += f" of shape {self.input_shape}"
        return InvalidInputError(
            f"model {self.name!r} reads {wanted}, but the task holds {_READ[given]}{detail}; "
            f"choose another model or task, or load the model with preprocess=…, a function from "
            f"one example to one input, and modality={given!r}"
        )

    @property
    def normalises(self) -> bool:
        """Whether it reads images, and makes inputs of them itself."""
        return self.modality == "image" and self.preprocess is not None

    @property
    def pads(self) -> bool:
        """Whether it pads examples of several lengths to one batch."""
        return getattr(self.collate, "equal_lengths", None) is False

    @property
    def equal_lengths(self) -> bool:
        """Whether a batch must hold examples of one length, since padding would change features."""
        return getattr(self.collate, "equal_lengths", False)

    def unpadded(self) -> Model:
        """The same with batches of equal length, where it ``pads``."""
        collate: Any = self.collate
        return replace(self, collate=replace(collate, equal_lengths=True))

    def length(self, example: Any) -> int:
        """How long an example is, by which those of a batch are chosen.

        Tokens of a text or samples of a sound where batches are of equal length. Else characters
        will do: of a text, a pair of texts, or the sentence of a word.
        """
        length = getattr(self.collate, "length", None) if self.equal_lengths else None
        if length is not None:
            return length(example)
        if isinstance(example, Word):
            return sum(map(len, example.sentence)) + len(example.sentence)
        if isinstance(example, Mapping):
            return len(as_sound(example))
        if isinstance(example, (tuple, list)):
            return sum(map(len, example))
        # A picture has no length; the model that reads no pictures says so when it is given one.
        return len(example) if hasattr(example, "__len__") else 0

    def dummy(self, n: int = 2) -> Any:
        """A batch of ``n`` meaningless inputs for tracing: noise, or the text "a b c".

        Noise for an audio model lasts as many samples as ``input_shape`` says.

        Raises:
            InvalidInputError: the shape of the input is not known.
        """
        if self.modality == "text":
            return self.batch(["a b c"] * n)
        if self.input_shape is None:
            raise InvalidInputError(
                f"model {self.name!r}: the shape of its input is not known; set "
                f"module.pretrained_cfg = {{'input_size': (C, H, W), …}} before it is "
                f"loaded, or give list_layers an example="
            )
        noise = torch.Generator().manual_seed(0)
        inputs = [torch.randn(self.input_shape, generator=noise) for _ in range(n)]
        if self.modality == "audio":
            return self.batch(inputs)
        return torch.stack(inputs) if self.collate is None else self.collate(inputs)

    def __call__(self, batch: Any) -> Any:
        """Run the network on a batch; a mapping becomes keyword arguments."""
        return self.module(**batch) if isinstance(batch, Mapping) else self.module(batch)


def _written(module: nn.Module) -> str:
    """A hash of structure, and of tensors how often they were written to and their first numbers.

    The numbers tell what is written by way of ``.data``, which is not counted.
    """
    digest = hashlib.sha256(repr(module).encode())
    for tensor in (*module.parameters(), *module.buffers()):
        version = 0 if tensor.is_inference() else tensor._version
        digest.update(f"{id(tensor)} {version}".encode())
        plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided
        if plain and tensor.dtype in _PRECISIONS and not tensor.is_nested and tensor.numel():
            first = tensor.detach()
            while first.ndim > 1:
                first = first[0]
            digest.update(str(first.reshape(-1)[:4].tolist()).encode())
    return digest.hexdigest()


def mapped(batch: Any, change: Callable[[Any], Any]) -> Any:
    """The same batch with all of its tensors, and whatever else it holds, changed."""
    if isinstance(batch, TextBatch):
        return batch.mapped(change)
    if isinstance(batch, Mapping):
        return {name: mapped(item, change) for name, item in batch.items()}
    if isinstance(batch, (tuple, list)):
        return type(batch)(mapped(item, change) for item in batch)
    return change(batch)


def place(batch: Any, module: nn.Module) -> Any:
    """Move a batch to the module's device; floating point inputs take the parameters' dtype."""
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)

    def placed(item: Any) -> Any:
        if isinstance(item, np.ndarray) and item.dtype.kind in "biuf":
            item = torch.from_numpy(np.require(item, item.dtype.newbyteorder("="), ["C", "W"]))
        if weight is None or not isinstance(item, Tensor):
            return item
        dtype = weight.dtype if item.is_floating_point() else item.dtype
        return item.to(weight.device, dtype, non_blocking=True)

    return mapped(batch, placed)


def call_model(model: Model | nn.Module, batch: Any) -> Any:
    """Run a Model or a module on one batch; its errors get the shapes of the batch."""
    try:
        if isinstance(model, nn.Module) and isinstance(batch, Mapping):
            return model(**batch)
        return model(batch)
    except TransferMetricsError:
        raise
    except Exception as error:
        name = getattr(model, "name", type(model).__name__)
        hint = ""
        if "out of memory" in str(error):
            hint = "; use a smaller batch size"
        elif "positional argument" in str(error):
            hint = "; let its forward take the batch as its one positional argument"
        elif isinstance(error, IndexError) and isinstance(batch, TextBatch):
            hint = (
                "; a token or its position is beyond the network's embeddings: check that the "
                "tokenizer is the network's own, or set a smaller model_max_length in its "
                "tokenizer_config.json"
            )
        raise ExtractionError(
            f"the forward pass of {name} failed on an input of shape {_shapes(batch)}: "
            f"{type(error).__name__}: {error}{hint}"
        ) from error


def _shapes(batch: Any) -> str:
    """The shapes in a batch, for messages."""
    if isinstance(batch, Tensor):
        return str(tuple(batch.shape))
    if isinstance(batch, Mapping):
        return ", ".join(f"{name} {_shapes(item)}" for name, item in batch.items())
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return ", ".join(_shapes(item) for item in batch)
    return type(batch).__name__

"""What a source hands on: a model with its preprocessing, and a task with its splits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from transfer_metrics.errors import InvalidInputError, UnknownNameError

if TYPE_CHECKING:
    from torch import nn

Modality = Literal["image", "text", "audio", "tensor"]
Kind = Literal["classification", "regression"]


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

    def __post_init__(self) -> None:
        from transfer_metrics.sources.models.modules import plain_module

        object.__setattr__(self, "module", plain_module(self.module))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over structure, parameters, all buffers, preprocessing and head.

        Independent of the device and of train or eval mode. The structure counts because two
        networks can share every tensor and still compute different things (padding, activation).
        What modules keep besides tensors (``get_extra_state``, packed weights) counts too, and so
        do buffers that are not saved.
        Cost: one pass over the weights, about a second per gigabyte. It is computed once; make a
        new ``Model`` after changing the weights.
        """
        from transfer_metrics.sources.models.identity import contents

        digest = hashlib.sha256()
        structure = without_addresses(repr(self.module))
        for text in (structure, describe(self.preprocess), describe(self.collate)):
            digest.update(f"{text}\0".encode())
        digest.update(f"{self.modality}\0{self.head}\0".encode())
        state = {**dict(self.module.named_buffers()), **self.module.state_dict()}
        for name, value in sorted(state.items()):
            digest.update(f"{name}\0".encode())
            for part in contents(value):
                digest.update(part)
        return digest.hexdigest()

    def batch(self, examples: Sequence[Any]) -> Any:
        """Preprocess raw examples into one batch on the CPU.

        Float arrays (C, H, W) given to an image model count as preprocessed already, and arrays
        (T,) given to an audio model as waveforms of the sampling rate that it reads. Whole numbers
        given to a network that begins with an embedding are numbers of its rows.

        Raises:
            InvalidInputError: the model reads another kind of example.
        """
        inputs = [self._input(example) for example in examples]
        if self.collate is not None:
            return self.collate(inputs)
        import torch

        shapes = {tuple(x.shape) for x in inputs}
        if len(shapes) > 1:
            raise InvalidInputError(
                f"model {self.name!r}: examples of different shapes {sorted(shapes)[:3]} do not "
                f"form a batch; give the model a preprocess that resizes them"
            )
        batch = torch.stack(inputs)
        return batch.long() if self._reads_ids and _are_ids(batch) else batch

    @cached_property
    def _reads_ids(self) -> bool:
        """Whether the first layer with weights looks its inputs up."""
        from torch import nn

        modules = (m for m in self.module.modules() if not any(True for _ in m.children()))
        first = next((m for m in modules if any(True for _ in m.parameters())), None)
        return isinstance(first, (nn.Embedding, nn.EmbeddingBag))

    def _input(self, example: Any) -> Any:
        import torch

        given = example_modality(example)
        ready = given == "tensor" and (
            self.preprocess is None or (self.modality == "image" and example.ndim == 3)
        )
        if ready and self.modality in ("image", "tensor"):
            tensor = torch.as_tensor(example, dtype=torch.float32)
            if self.input_shape is not None and len(self.input_shape) != tensor.ndim:
                raise self._mismatch(given, f" of shape {tuple(tensor.shape)}")
            return tensor
        waveform = self.modality == "audio" and given == "tensor" and example.ndim == 1
        if (given != self.modality and not waveform) or self.preprocess is None:
            raise self._mismatch(given, "")
        return self.preprocess(example)

    def _mismatch(self, given: str, detail: str) -> InvalidInputError:
        names = {
            "image": "images",
            "text": "text",
            "audio": "sounds",
            "tensor": "arrays of numbers",
        }
        wanted = names[self.modality]
        if self.modality == "tensor" and self.input_shape is not None:
            wanted += f" of shape {self.input_shape}"
        return InvalidInputError(
            f"model {self.name!r} reads {wanted}, but the task holds {names[given]}{detail}; "
            f"choose another model or task, or load the model with preprocess=…, a function from "
            f"one example to one input"
        )

    def dummy(self, n: int = 2) -> Any:
        """A batch of ``n`` meaningless inputs for tracing: noise, or the text "a b c".

        Noise for an audio model lasts as many samples as ``input_shape`` says.

        Raises:
            InvalidInputError: the shape of the input is not known.
        """
        import torch

        if self.modality == "text":
            return self.batch(["a b c"] * n)
        if self.input_shape is None:
            raise InvalidInputError(
                f"model {self.name!r}: the shape of its input is not known; pass example=…, or "
                f"set module.pretrained_cfg = {{'input_size': (C, H, W), …}}"
            )
        noise = torch.Generator().manual_seed(0)
        inputs = [torch.randn(self.input_shape, generator=noise) for _ in range(n)]
        if self.modality == "audio":
            return self.batch(inputs)
        return torch.stack(inputs) if self.collate is None else self.collate(inputs)

    def __call__(self, batch: Any) -> Any:
        """Run the network on a batch; a mapping becomes keyword arguments."""
        return self.module(**batch) if isinstance(batch, Mapping) else self.module(batch)


@dataclass(frozen=True, eq=False)
class Split:
    """Examples with their labels.

    Attributes:
        examples: N lazily decoded examples: PIL images, strings or pairs of them, words of
            sentences, sounds, float32 arrays.
        labels: (N,) int64 in 0..C-1, or float64 (N,) or (N, K) for regression.
        whole: the split that these are some rows of, if any.
    """

    examples: Sequence[Any]
    labels: np.ndarray
    whole: Split | None = None

    def __post_init__(self) -> None:
        if len(self.examples) != len(self.labels):
            raise InvalidInputError(
                f"{len(self.examples)} examples but {len(self.labels)} labels; "
                f"each example needs one label"
            )
        if not len(self.labels):
            raise InvalidInputError("no examples; a split needs at least one")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def units(self) -> np.ndarray | None:
        """(N,) number of the sentence of each word; None where examples stand for themselves."""
        return getattr(self.examples, "units", None)

    def rows(self, positions: np.ndarray) -> Split:
        """The examples at some positions, decoded no sooner than before."""
        from transfer_metrics.sources.example import Chosen

        own = getattr(self.examples, "rows", None)
        examples = Chosen(self.examples, positions) if own is None else own(positions)
        return Split(examples, self.labels[positions])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the contents of examples and labels, in order; images count as stored."""
        digest = hashlib.sha256(f"{self.labels.dtype}{self.labels.shape}\0".encode())
        digest.update(np.ascontiguousarray(self.labels).tobytes())
        parts = getattr(self.examples, "content", None)
        for part in parts() if parts is not None else map(example_bytes, self.examples):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
        return digest.hexdigest()


@dataclass(frozen=True)
class Understood:
    """How a source was read, for people to check.

    Attributes:
        label: the column of the labels; empty where there are no columns.
        inputs: the columns of the inputs.
        left_out: columns, files and rows that are not used, each with the reason.
        suspicions: what may be a mistake, a sentence each that names the cure.
    """

    label: str = ""
    inputs: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    suspicions: tuple[str, ...] = ()

    def without(self, *left_out: tuple[str, str]) -> Understood:
        """The same, with more that is left out.

        >>> Understood("stars").without(("id", "it numbers the rows")).left_out
        (('id', 'it numbers the rows'),)
        """
        return replace(self, left_out=(*self.left_out, *left_out))


NOTHING = Understood()


@dataclass(frozen=True, eq=False)
class Task:
    """A labelled data set: what the models are ranked on.

    Attributes:
        name: the specification that it was loaded from.
        kind: ``"classification"`` or ``"regression"``.
        modality: ``"image"``, ``"text"``, ``"audio"`` or ``"tensor"``.
        splits: ``"train"`` always; ``"test"``, ``"val"``, ``"ood"`` where they exist.
        classes: names of the classes in the order of the labels; empty for regression.
        understood: which columns and files were read as what, and what was left out.
    """

    name: str
    kind: Kind
    modality: Modality
    splits: Mapping[str, Split]
    classes: tuple[str, ...] = ()
    understood: Understood = NOTHING

    def __post_init__(self) -> None:
        if "train" not in self.splits:
            raise InvalidInputError(
                f"task {self.name!r} has no split 'train', only: "
                f"{', '.join(self.splits) or 'none'}; name the labelled examples to score 'train'"
            )

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 for regression."""
        return len(self.classes)

    @cached_property
    def summary(self) -> str:
        """How it was understood, on one line; see ``sources.tasks.summary``."""
        from transfer_metrics.sources.tasks.summary import summary_of

        return summary_of(self)

    def __getitem__(self, split: str) -> Split:
        if split not in self.splits:
            raise InvalidInputError(
                f"task {self.name!r} has no split {split!r}; it has: {', '.join(self.splits)}"
            )
        return self.splits[split]


def example_modality(example: Any) -> Modality:
    """Tell an image, a text, a sound and an array of numbers apart.

    >>> example_modality("some words"), example_modality(np.zeros(3))
    ('text', 'tensor')

    Raises:
        InvalidInputError: it is none of them.
    """
    from PIL import Image

    from transfer_metrics.sources.sounds import is_sound
    from transfer_metrics.sources.tasks.words import Word

    if isinstance(example, Image.Image):
        return "image"
    if is_sound(example):
        return "audio"
    if isinstance(example, (str, Word)) or (
        isinstance(example, (tuple, list))
        and len(example) == 2
        and all(isinstance(part, str) for part in example)
    ):
        return "text"
    if hasattr(example, "dtype") and hasattr(example, "shape"):
        return "tensor"
    raise InvalidInputError(
        f"an example is a {type(example).__name__}; examples are PIL images, strings, pairs of "
        f"strings, sounds, arrays or tensors"
    )


def _are_ids(batch: Any) -> bool:
    return bool(((batch >= 0) & (batch == batch.round())).all())


def example_bytes(example: Any) -> bytes:
    """What identifies one decoded example, for fingerprints."""
    from transfer_metrics.sources.sounds import as_sound
    from transfer_metrics.sources.tasks.words import Word

    if isinstance(example, (str, Word)):
        return example.encode()
    if isinstance(example, (tuple, list)):
        return "\0\0".join(example).encode()
    given = example_modality(example)
    if given == "audio":
        sound = as_sound(example)
        return f"{sound.rate}\0".encode() + sound.samples.tobytes()
    if given == "image":
        return f"{example.mode}{example.size}\0".encode() + example.tobytes()
    array = np.ascontiguousarray(example)
    return f"{array.dtype}{array.shape}\0".encode() + array.tobytes()


def without_addresses(text: str) -> str:
    """A description without places in memory, which differ between processes.

    >>> without_addresses("<object object at 0x7f00c0ffee>")
    '<object object>'
    """
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def describe(function: Any) -> str:
    """A description of a callable that is the same in every process."""
    if function is None:
        return ""
    own = getattr(function, "__qualname__", None)
    if own is not None:
        return f"{function.__module__}.{own}"
    return without_addresses(f"{type(function).__module__}.{function!r}")


def choose(kind: str, name: str, known: Iterable[str]) -> str:
    """Return ``name`` when it is known, else raise with suggestions."""
    known = list(known)
    if name not in known:
        raise UnknownNameError.of(kind, name, known)
    return name

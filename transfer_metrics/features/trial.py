"""A pass that is tried on three examples, whose features are compared to rounding."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transfer_metrics.errors import ExtractionError, InvalidInputError
from transfer_metrics.features.forward import Forward
from transfer_metrics.features.inference import Inference
from transfer_metrics.features.layers import Found
from transfer_metrics.sources.example import example_bytes
from transfer_metrics.sources.models.classifier import tensors_in
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.models.modules import copied, every_call, is_quantised

_NUMBERS = 16  # that stand for what a network gave
_REPEATS = 5  # in which random numbers get to show themselves


@dataclass(frozen=True)
class Trial:
    """A pass that is tried on three examples, whose features are compared to rounding."""

    forward: Forward
    found: Found

    def _like(self, model: Model) -> Trial:
        return Trial(dataclasses.replace(self.forward, model=model), self.found)

    def others(self) -> Iterator[Trial]:
        """How else the network may be run."""
        model = self.forward.model
        yield self._like(dataclasses.replace(model, least=2))
        if model.pads:
            yield self._like(model.unpadded())

    def read(self) -> tuple[dict[str, Tensor], Exception | str | None]:
        """Features of the three examples, and what is wrong with them in other company."""
        features: dict[str, Tensor] = {}
        try:
            features = self.forward.features(self.forward.few, self.found)
            steady = self._is_steady(features)
        except Exception as error:  # whatever the network's own code raises
            return features, error
        return features, None if steady else "they depend on the batch"

    def _is_steady(self, features: Mapping[str, Tensor]) -> bool:
        """Whether the last of the three has its features alone."""
        return self._gives(features, self.forward.few[2:], [2])

    def is_rounding(self) -> bool:
        """Whether a copy in double precision gives examples the same features in every company.

        In single precision, rounding can grow from layer to layer of a network with random weights.
        """
        doubled = self._doubled()
        try:
            return doubled is not None and doubled._is_steady(doubled._of(doubled.forward.few))
        except Exception:  # not every network can be that precise
            return False

    def _doubled(self) -> Trial | None:
        """A copy of a network of single precision in double precision."""
        model = self.forward.model
        precisions = {p.dtype for p in model.module.parameters() if p.is_floating_point()}
        if self.forward.amp or precisions != {torch.float32}:
            return None
        return self._like(dataclasses.replace(model, module=copied(model.module).double()))

    def confirm(
        self,
        position: int,
        company: Sequence[int],
        kept: Mapping[str, Tensor],
        seen: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Raise unless an example has the features that it had in some company.

        That is those that were ``seen`` of it among the few, or if none were, those it has alone.
        """
        others = [position] if seen is None else self.forward.few
        first = self._of(others, position) if seen is None else seen
        if self._are_close(first, {name: kept[name] for name in first.keys() & kept.keys()}):
            return
        self.gets_other_examples()
        there, again = self._of(company, position), self._of(others, position)
        if not self._are_close(again, first) or self._are_close(there, first):
            raise self.random_refusal()
        doubled = self._doubled()
        if doubled and self._are_close(
            doubled._of(others, position), doubled._of(company, position)
        ):
            return  # rounding, which can grow
        raise self.company_refusal([(batch, [position]) for batch in (company, others)])

    def _of(self, some: Sequence[int], one: int | None = None) -> dict[str, Tensor]:
        """Features of some examples in one batch, or of one of them."""
        features = self.forward.features(some, self.found)
        row = slice(None) if one is None else slice(some.index(one), some.index(one) + 1)
        return {name: rows[row].cpu() for name, rows in features.items()}

    def gets_other_examples(self, allowed: bool = False) -> bool:
        """Whether a task gives other examples when they are read again; else that is refused."""
        examples, few = self.forward.data.examples, self.forward.few
        where = f"task {self.forward.task.name!r} ({self.forward.split}) gives"
        once = [example_bytes(examples[p]) for p in few]
        for _ in range(_REPEATS):
            for position, content in zip(few, once, strict=True):
                if example_bytes(examples[position]) == content:
                    continue
                if allowed:
                    return True
                raise InvalidInputError(
                    f"{where} another example {position} whenever it is read; leave out what draws "
                    f"random numbers, such as augmentation, or take one draw of its features with "
                    f"allow_random=True (--allow-random)"
                )
        held = [examples[p] for p in few]
        for position, content, example in zip(few, once, held, strict=True):
            if example_bytes(example) != content:
                raise InvalidInputError(
                    f"{where} example {position} in memory that the next example overwrites; let "
                    f"it return a copy of each"
                )
        return False

    def is_random(self, features: Mapping[str, Tensor], draws: bool) -> bool:
        """Whether the same batch gives other features when it is read again."""
        return not all(self._gives(features) for _ in range(_REPEATS if draws else 1))

    def inference(self, features: Mapping[str, Tensor]) -> Inference:
        """The fastest way to run the network with the same features."""
        module = self.forward.model.module
        if not (self.forward.as_is or self.forward.amp):
            for inference in Inference.ways(module, self.found.folds):
                try:
                    with inference.of(module):
                        if self._gives(features):
                            return inference
                except Exception:  # of code that looks into memory, such as view
                    continue
        return Inference()

    def _gives(
        self,
        features: Mapping[str, Tensor],
        some: Sequence[int] | None = None,
        rows: Sequence[int] = (0, 1, 2),
    ) -> bool:
        """Whether some of the examples, all if not said, have the features of those rows again."""
        again = self.forward.features(self.forward.few if some is None else some, self.found)
        return self._are_close(
            again, {name: of_all[list(rows)] for name, of_all in features.items()}
        )

    def _are_close(self, again: Mapping[str, Tensor], features: Mapping[str, Tensor]) -> bool:
        """Whether layers have the same features to rounding."""
        tolerance = self._tolerance
        # What should be zero, as the mean of normalised features, is rounding of its parts.
        least = tolerance * max(map(_typical, features.values())) / 100
        return all(
            _is_close(again[name], rows, tolerance, least) for name, rows in features.items()
        )

    def behaviour(self, features: Mapping[str, Tensor]) -> str:
        """A few numbers that features of other networks share by chance only, to a few bits.

        Rounding of another machine or number of threads seldom changes them, and then a score is
        computed once more.
        """
        random_signs = torch.Generator().manual_seed(0)
        total = torch.zeros(_NUMBERS, dtype=torch.float64)
        size = 0.0
        for rows in features.values():
            values = torch.nan_to_num(rows.detach().cpu().double().flatten())
            size += float(values.square().sum())
            signs = torch.randint(0, 2, (_NUMBERS, len(values)), generator=random_signs) * 2.0 - 1
            total += signs.double() @ values / max(float(values.norm()), 1e-300)
        total *= 4 / (self._tolerance * max(len(features), 1)) ** 0.5
        exponent = f"{np.log2(size) * 16:.0f}" if size else "-"
        return f"{exponent} " + " ".join(f"{number:.0f}" for number in total)

    def random_refusal(self) -> ExtractionError:
        """What to say of a network that draws random numbers."""
        few = self.forward.few
        parted = (self._parting(few, few) for _ in range(_REPEATS))
        return ExtractionError(
            f"model {self.forward.model.name!r} gives other features whenever it reads the same "
            f"examples{next(filter(None, parted), '')}; make it deterministic in evaluation mode, "
            f"such as by F.dropout(x, p, self.training), or take one draw of its features with "
            f"allow_random=True (--allow-random)"
        )

    def company_refusal(
        self, batches: Sequence[tuple[Sequence[int], Sequence[int]]] = ()
    ) -> ExtractionError:
        """What to say of one whose examples have other features in the second of two batches."""
        few = self.forward.few
        batches = batches or [(few, some) for some in (few[1::-1], few[:0:-1], few[2:])]
        parted = (self._parting(one, other) for one, other in batches)
        return ExtractionError(
            f"model {self.forward.model.name!r} gives an example other features in another batch"
            f"{next(filter(None, parted), '')}; let it treat each example on its own, such as by a "
            f"normalisation that keeps running statistics"
        )

    @property
    def _tolerance(self) -> float:
        """Rounding through as many layers as networks have, of the size of the features."""
        module = self.forward.model.module
        weight = next((p for p in module.parameters() if p.is_floating_point()), None)
        half = weight is not None and weight.dtype in (torch.float16, torch.bfloat16)
        if is_quantised(module):
            return 0.5
        if self.forward.amp or half:
            return 0.2
        # Where products may be of ten bits.
        return 0.02 if weight is not None and weight.is_cuda else 1e-3

    def _parting(self, first: Sequence[int], second: Sequence[int]) -> str:
        """Where a batch, and another with some of its examples, first differ; empty if not."""
        rows = [first.index(position) for position in second]
        try:
            one, other = self._events(first), self._events(second)
        except Exception:  # the network cannot take one of them, which is no difference
            return ""
        for (path, side, a), (also, _, b) in zip(one, other, strict=False):
            if path != also or not _is_close(b, a[rows], 1e-3):
                kind = type(self.forward.model.module.get_submodule(path)).__name__
                title = f"layer {path!r} ({kind})" if path else f"the network ({kind}) itself"
                came = " (what enters it differs already)" if side == "enters" else ""
                return f": the first that differs is {title}{came}"
        return ""

    def _events(self, positions: Sequence[int]) -> list[tuple[str, str, Tensor]]:
        """What enters and leaves each module in turn, each example's tensors as four numbers."""
        found: list[tuple[str, str, Tensor]] = []

        def note(path: str, side: str, given: Any) -> None:
            for tensor in tensors_in(given):
                if tensor.ndim and len(tensor) == len(positions):
                    rows = tensor.detach().double().reshape(len(tensor), -1)
                    alternating = torch.arange(rows.shape[1], device=rows.device) % 2 * 2 - 1
                    means = rows.mean(1), (rows * alternating).mean(1)
                    numbers = (*means, rows.std(1, False), rows.amax(1))
                    found.append((path, side, torch.stack(numbers, 1).cpu()))
                    return

        with every_call(
            self.forward.model.module,
            enter=lambda path, _module, args, _kwargs: note(path, "enters", args),
            leave=lambda path, _module, _args, output: note(path, "leaves", output),
        ):
            self.forward.run(positions)
        return found


def _is_close(a: Tensor, b: Tensor, tolerance: float, least: float = 0.0) -> bool:
    """Whether two matrices differ by less than a share of their typical and their own entries."""
    if a.shape != b.shape:
        return False
    near = (a - b).abs() <= tolerance * (_typical(b) + b.abs()) + least
    return bool((near | (a.isnan() & b.isnan()) | (a == b)).all())


def _typical(rows: Tensor) -> float:
    """Root mean square of the entries that are finite."""
    return float(rows[rows.isfinite()].square().mean().nan_to_num().sqrt())

"""What a race keeps of its candidates from round to round: networks, and what was found of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from transfer_metrics.features.proof import Proof
from transfer_metrics.sources.models.candidates import Candidate
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.models.modules import weight_bytes


class Kept:
    """Networks that were loaded by name, as far as there is ``room``, and what was proven of each.

    A network that is not here is loaded again, and what was proven of it counts as long as its
    content and settings are the same, so that scores do not depend on what is kept. One that its
    own forward passes change is not kept, since another round would meet what this one left.
    Another process gets what was proven, which is small, and keeps networks of its own.

    Cost: loading a network takes as long as some ten of its forward passes, and proving as long as
    some twenty to a hundred; ``room`` in bytes is what the weights take.

    >>> kept = Kept()
    >>> kept.load(Candidate("digits", "zoo:cnn-mnist")).name
    'digits'
    """

    def __init__(self, room: int = 0) -> None:
        self.room = room
        self._models: dict[str, tuple[Model, int]] = {}  # with what its weights take
        self._known: dict[str, Proof] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_models": {}}

    @property
    def bytes(self) -> int:
        """What the networks take that are kept."""
        return sum(size for _, size in self._models.values())

    def load(self, item: Candidate) -> Model:
        """The network of a candidate; raises what loading it raises."""
        if item.name in self._models:
            return self._models[item.name][0]
        model = item.load()
        if item.name in self._known:
            self._known[item.name].note(model)
        return model

    def keep(self, item: Candidate, model: Model) -> None:
        """Hold on to a network that was loaded by name and is proven, where there is room."""
        if not isinstance(item.model, str) or item.name in self._models:
            return  # others are held by who gave them
        known = Proof.of(model)
        changes = known is None or known.settings.changing
        size = weight_bytes(model.module)
        if not changes and self.bytes + size <= self.room:
            self._models[item.name] = model, size

    def note(self, name: str, known: Proof | None) -> None:
        """Remember what was proven of a candidate, here or in another process."""
        if known is not None:
            self._known[name] = known

    def take_over(self, before: Kept) -> None:
        """Hold on to networks of the round before, as far as something is known of them still."""
        self._models = {n: held for n, held in before._models.items() if n in self._known}

    def leave(self, names: Collection[str]) -> None:
        """Forget all candidates but some."""
        for held in (self._models, self._known):
            for name in held.keys() - set(names):
                del held[name]

"""Models that stand beside each other in one table, each under a name that no other has."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import nn

from transfer_metrics.errors import InvalidInputError, TransferMetricsError
from transfer_metrics.naming import told_apart
from transfer_metrics.sources.models.lists import named_models
from transfer_metrics.sources.models.load_model import called, load_model
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.models.plain import not_a_model, plain_module


@dataclass(frozen=True)
class Candidate:
    """A model before it is loaded.

    Attributes:
        name: what the table calls it.
        model: its specification, or the model or module itself.
    """

    name: str
    model: str | Model | nn.Module

    def load(self) -> Model:
        """The model, under this name; raises what ``load_model`` raises."""
        return called(load_model(self.model), self.name)


def candidates_of(models: Any) -> list[Candidate]:
    """The models of ``expand_models`` with their names, as given or found, all of them different.

    A specification is a name; a model has one; a module is called after its class. The second of
    equal names gets a number. The same module or specification given twice is one candidate.

    Raises:
        InvalidInputError: two models were given one name, there is none at all, or something else
            is given for one.
        UnknownNameError: a wildcard matches nothing.

    >>> from torch import nn
    >>> [c.name for c in candidates_of([nn.ReLU(), nn.ReLU(), {"small": nn.ReLU()}])]
    ['ReLU', 'ReLU (2)', 'small']
    """
    if isinstance(models, list) and models and all(isinstance(m, Candidate) for m in models):
        return models
    pairs = named_models(models)
    for _, model in pairs:
        if not isinstance(model, (str, Model, nn.Module)):
            raise not_a_model(model)
    given = [name for name, _ in pairs if name is not None]
    twice = [name for name, count in Counter(given).items() if count > 1]
    if twice:
        raise InvalidInputError(
            f"several models are called {twice[0]!r}; give each a name of its own"
        )
    found = [_own_name(model) for name, model in pairs if name is None]
    numbered = iter(told_apart([*given, *found])[len(given) :])
    return [Candidate(name or next(numbered), model) for name, model in pairs]


def _own_name(model: Any) -> str:
    if isinstance(model, str):
        return model
    if isinstance(model, Model):
        return model.name
    try:
        return type(plain_module(model)).__name__
    except TransferMetricsError:  # which it is refused for when it is loaded
        return type(model).__name__

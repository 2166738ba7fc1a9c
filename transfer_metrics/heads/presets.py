"""Fine-tuning from a linear probe (LP-FT) or from Head2Toe (H2T-FT), under names of their own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from sklearn.base import clone

from transfer_metrics.heads.base import Head
from transfer_metrics.heads.finetune import FineTune
from transfer_metrics.heads.head2toe import Head2Toe
from transfer_metrics.heads.linear import LINEAR_C


def _preset(*fixed: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give an ``__init__`` the options of ``FineTune`` but those that are fixed.

    Its signature lists them one by one, as scikit-learn reads parameters from it.
    """

    def given(init: Callable[..., None]) -> Callable[..., None]:
        own = dict(inspect.signature(init).parameters)
        del own["options"]
        every = inspect.signature(FineTune.__init__).parameters
        more = [option for name, option in every.items() if name not in {*own, *fixed}]
        signature = inspect.Signature([*own.values(), *more])

        @functools.wraps(init)
        def checked(*args: Any, **options: Any) -> None:
            signature.bind(*args, **options)
            init(*args, **options)

        checked.__signature__ = signature  # type: ignore[attr-defined]
        return checked

    return given


class LPFT(FineTune):
    """Linear probing, then fine-tuning from its weights.

    ``FineTune(start="probe")``: the head starts as that of ``LinearProbe(refit=False)`` with the
    same validation data, so that fine-tuning does not distort the features on its way from a random
    head; by default with batch normalisation in evaluation mode and the paper's small learning
    rates for it. With ``epochs=0`` or ``lr=0`` the predictions are the probe's.

    Args:
        layers: as in ``FineTune``.
        pool: as in ``FineTune``.
        batch_norm: as in ``FineTune``; ``"eval"`` by default.
        C_grid: inverse strengths of the probe.
        max_iter: iterations per fit of the probe.
        **options: all others of ``FineTune``.

    Source: Kumar, Raghunathan, Jones, Ma and Liang, ICLR 2022 (arXiv 2202.10054).

    Cost: a forward pass and the probe, then as ``FineTune``.

    >>> task = "sklearn:digits?examples=300"
    >>> head = LPFT(lr=1e-4, epochs=1, C_grid=(0.1, 10.0), progress=False)
    >>> head.fit("zoo:cnn-mnist", task).score(task) > 0.8
    True
    """

    name = "lpft"

    @_preset("start")
    def __init__(
        self,
        layers: Any = "last",
        pool: Any = "avg",
        *,
        batch_norm: str = "eval",
        C_grid: Sequence[float] = LINEAR_C,
        max_iter: int = 200,
        **options: Any,
    ) -> None:
        super().__init__(layers, pool, start="probe", batch_norm=batch_norm, **options)
        self.C_grid = C_grid
        self.max_iter = max_iter


class H2TFT(FineTune):
    """Head2Toe first, then fine-tuning of the backbone and the head on the chosen features.

    ``FineTune(start=head2toe)``: the features are chosen with the backbone frozen, as in the paper;
    then the head that Head2Toe has trained on them and the whole backbone are trained further.

    Args:
        head2toe: a ``Head2Toe`` that says how features are chosen; None for its defaults.
        **options: those of ``FineTune`` but ``layers`` and ``pool``.

    Source: Evci et al., ICML 2022 (arXiv 2201.03529), H2T-FT. Whether the paper's head starts
        anew or from Head2Toe's could not be made out; here it starts from Head2Toe's.

    Cost: that of Head2Toe, then as ``FineTune``.

    >>> task = "sklearn:digits?examples=300"
    >>> head = H2TFT(Head2Toe(steps=50, lr=0.1), lr=1e-3, epochs=1, progress=False)
    >>> head.fit("zoo:cnn-mnist", task).score(task) > 0.8
    True
    """

    name = "h2t_ft"

    @_preset("layers", "pool", "start")
    def __init__(self, head2toe: Head2Toe | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.head2toe = head2toe

    def _start(self) -> Head:
        return Head2Toe() if self.head2toe is None else clone(self.head2toe)

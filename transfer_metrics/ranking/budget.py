"""Rounds of a race that fit a budget of forward passes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from transfer_metrics.errors import InvalidInputError

# Share of the budget for the first round, in which all models take part.
_FIRST = 1 / 3
# Fewer examples say too little, in all and per class.
LEAST, LEAST_PER_CLASS = 40, 5
# A model reads ten examples at most in each round before its features count.
PROBE = 10


@dataclass(frozen=True)
class RacePlan:
    """How many examples each round looks at, and how many may be run through models in all.

    Attributes:
        sizes: examples that a model has seen by the end of each round, increasing to N.
        allowed: examples that may be run through models, over all of them.
    """

    sizes: tuple[int, ...]
    allowed: int

    def cost(self, stage: int) -> int:
        """Examples that one model takes in a round."""
        return self.sizes[stage] - (self.sizes[stage - 1] if stage else 0) + PROBE

    def places(self, stage: int, spent: int) -> int:
        """How many models may enter a round, after so many examples.

        What is left is shared out among the rounds to come in proportion to the square root of
        their costs, between equal shares, which leave one finalist, and equal places, which would
        not be dropping any; one model can always go to the end.
        """
        costs = [self.cost(i) for i in range(stage, len(self.sizes))]
        left = self.allowed - spent
        share = left * math.sqrt(costs[0]) / sum(map(math.sqrt, costs))
        return max(1, int(min(share, left - sum(costs[1:])) // costs[0]))


def plan_race(models: int, n: int, num_classes: int, budget: float) -> RacePlan:
    """Rounds that fit a budget.

    The first round takes a third of it, but at least forty examples and five per class; each of
    the others sees about twice as many as the one before.

    Args:
        models: number of candidates, M.
        n: number of examples, N.
        num_classes: C, 0 for regression.
        budget: share of the M N forward passes of a full ranking.

    Raises:
        InvalidInputError: it is no number between 0 and 1, or too small to score every model once
            and one of them on all examples.

    >>> plan_race(models=100, n=4000, num_classes=10, budget=1 / 3)
    RacePlan(sizes=(434, 910, 1908, 4000), allowed=133333)
    """
    number = isinstance(budget, (int, float)) and not isinstance(budget, bool)
    if not number or not 0 < budget < 1:
        raise InvalidInputError(
            f"budget={budget!r}; use the share of the forward passes that may be spent, such as "
            f"0.3, or None to score every model on all examples"
        )
    least = max(LEAST, LEAST_PER_CLASS * num_classes)
    allowed = math.floor(budget * models * n)
    needed = models * (least + PROBE) + n - least + PROBE
    if least >= n or needed > models * n:
        raise InvalidInputError(
            f"{models} models on {n} examples are too few to race: a first round takes {least} "
            f"examples, so there is nothing to save; leave out budget="
        )
    if needed > allowed:
        raise InvalidInputError(
            f"budget={budget:g} is too small for {models} models on {n} examples: {least} for each "
            f"and all for one take {math.ceil(1000 * needed / (models * n)) / 1000:g}; raise it, "
            f"or give fewer models or more examples"
        )
    first = min(max(least, int(_FIRST * allowed / models) - PROBE), n - 1)
    while True:
        for rounds in range(max(1, round(math.log2(n / first))), 0, -1):
            steps = [round(first * (n / first) ** (i / rounds)) for i in range(rounds + 1)]
            plan = RacePlan(tuple(steps), allowed)
            if models * plan.cost(0) + sum(map(plan.cost, range(1, rounds + 1))) <= allowed:
                return plan
        # Ends at the smallest first round and one more, whose cost is the one checked above.
        first = max(least, first // 2)

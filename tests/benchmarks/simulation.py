"""The scheduler at the size of a cluster: simulated time, the real decisions.

``engines.Schedule`` decides here as it does for processes and Ray; only the work is made up.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.ranking.engines import REDUCE, Lost, Unit
from transfer_metrics.ranking.engines.crew import Schedule


@dataclass(frozen=True)
class Load:
    """Work to be done.

    Attributes:
        load: seconds to load each model, (M,).
        range: seconds for one range of each, (M,).
        reduce: seconds to merge the ranges of each and score them, (M,).
        ranges: ranges R of each model.
    """

    load: np.ndarray
    range: np.ndarray
    reduce: np.ndarray
    ranges: int

    @classmethod
    def lognormal(
        cls,
        models: int,
        ranges: int,
        *,
        load: float,
        range: float,
        reduce: float,
        spread: float = 1.0,
        seed: int = 0,
    ) -> Load:
        """Models whose sizes are lognormal: all three times go with the size.

        Args:
            models: M.
            ranges: R.
            load: mean seconds to load a model.
            range: mean seconds for a range.
            reduce: mean seconds to put one together.
            spread: standard deviation of the logarithm of the size.
            seed: seed of the sizes.

        >>> load = Load.lognormal(1000, 16, load=10, range=60, reduce=5, spread=0.5)
        >>> round(float(load.range.mean()))
        60
        """
        size = np.random.default_rng(seed).lognormal(0.0, spread, models)
        size /= size.mean()
        return cls(load * size, range * size, reduce * size, ranges)

    @property
    def total(self) -> float:
        """Seconds of all of it, where each model is loaded once."""
        return float((self.load + self.ranges * self.range + self.reduce).sum())

    @property
    def longest(self) -> float:
        """Seconds of the longest model where every range has a worker of its own."""
        return float((self.load + self.range + self.reduce).max())


@dataclass(frozen=True)
class Cluster:
    """Who does the work.

    Attributes:
        workers: W.
        start: seconds until a new worker can begin.
        slow: share of the workers that are slower.
        times: how many times slower they are.
        life: mean seconds that a worker lives, exponentially distributed; infinite for no failures.
    """

    workers: int
    start: float = 0.0
    slow: float = 0.0
    times: float = 1.0
    life: float = float("inf")

    @property
    def capacity(self) -> float:
        """How many workers of full speed these make."""
        slow = round(self.slow * self.workers)
        return self.workers - slow + slow / self.times


@dataclass
class Run:
    """What became of the work.

    Attributes:
        makespan: seconds until all was done.
        bound: seconds that no schedule can be below: all work over the capacity, or the longest
            model, whichever is more; with the start of the workers, and without failures.
        busy: seconds in which workers had something to do, over all of them.
        workers: W.
        models: M.
        loads: how often a model was loaded.
        deaths: workers that died at work.
        begun: ranges that were begun.
        repeated: ranges that were finished where they had been finished before.
        lost: seconds of work on units that died with their workers.
        given_up: models on which workers died too often.
    """

    bound: float
    workers: int
    models: int
    makespan: float = 0.0
    busy: float = 0.0
    loads: int = 0
    deaths: int = 0
    begun: int = 0
    repeated: int = 0
    lost: float = 0.0
    given_up: int = 0

    @property
    def efficiency(self) -> float:
        """Lower bound over the makespan, at most 1."""
        return self.bound / self.makespan if self.makespan else 1.0

    @property
    def busy_share(self) -> float:
        """Part of the workers' time in which they had something to do."""
        return self.busy / (self.workers * self.makespan) if self.makespan else 1.0

    @property
    def loads_per_model(self) -> float:
        """How often a model was loaded, on average."""
        return self.loads / self.models


def simulate(
    load: Load, cluster: Cluster, seed: int = 0, lives: Callable[[], float] | None = None
) -> Run:
    """Let the scheduler place all work, and see how long it takes.

    As in ``ranking.engines.crew``, a worker that dies is noticed with the unit that it was
    given, and a new one takes its place at once. A place that is slow stays so, as a node does.

    Args:
        load: the work.
        cluster: who does it.
        seed: seed of which places are slow, and of failures.
        lives: seconds that the next worker to be started lives, in place of random ones.

    Raises:
        InvalidInputError: no work, or nobody to do it.

    Cost: a second for each 100 000 ranges or so, for any number of workers.

    >>> load = Load(np.array([1.0, 1.0]), np.array([2.0, 2.0]), np.zeros(2), ranges=3)
    >>> simulate(load, Cluster(2)).makespan
    7.0
    """
    if not len(load.load) or load.ranges < 1 or cluster.workers < 1:
        raise InvalidInputError(
            f"{len(load.load)} models of {load.ranges} ranges on {cluster.workers} workers cannot "
            f"be simulated; give at least one of each"
        )
    return _Simulation(load, cluster, seed, lives).run()


@dataclass(order=True)
class _End:
    """When a unit ends, or its worker dies."""

    time: float
    number: int
    place: int = field(compare=False)
    unit: Unit = field(compare=False)
    began: float = field(compare=False)
    dies: bool = field(compare=False)


class _Simulation:
    def __init__(
        self, load: Load, cluster: Cluster, seed: int, lives: Callable[[], float] | None
    ) -> None:
        self.load, self.cluster = load, cluster
        rng = np.random.default_rng(seed)
        self.factor = np.ones(cluster.workers)
        slow = rng.permutation(cluster.workers)[: round(cluster.slow * cluster.workers)]
        self.factor[slow] = cluster.times
        self.lives = lives or (lambda: _life(rng, cluster.life))
        self.schedule = Schedule([load.ranges] * len(load.load))
        self.until: dict[int, float] = {}
        self.ends: list[_End] = []
        self.started = 0
        fastest = cluster.start + float(self.factor.min()) * load.longest
        bound = max(cluster.start + load.total / cluster.capacity, fastest)
        self.found = Run(bound, cluster.workers, len(load.load))

    def run(self) -> Run:
        """All of it, event by event."""
        now, idle = 0.0, list(range(self.cluster.workers))
        while not self.schedule.finished:
            idle = [place for place in idle if not self._begin(place, now)]
            end = heapq.heappop(self.ends)
            now = end.time
            self._finish(end)
            idle.append(end.place)
        self.found.makespan = now
        # What still runs was done by others before.
        self.found.busy += sum(now - end.began for end in self.ends)
        return self.found

    def _begin(self, place: int, now: float) -> bool:
        """Give a place something to do, with a new worker where there is none."""
        ready = now
        held = self.schedule.holds(place)
        unit = self.schedule.take(place)
        if unit is None:
            return False
        if place not in self.until:
            self.until[place] = now + self.lives()
            ready += self.cluster.start
        index, load = unit.item, self.load
        if unit.part == REDUCE:
            seconds = load.reduce[index]
        else:
            seconds = load.range[index] + (load.load[index] if held != index else 0.0)
            self.found.loads += held != index
            self.found.begun += 1
        done = ready + float(seconds * self.factor[place])
        dies = self.until[place] < done
        time = max(now, self.until[place]) if dies else done
        heapq.heappush(self.ends, _End(time, self.started, place, unit, now, dies))
        self.started += 1
        return True

    def _finish(self, end: _End) -> None:
        found, unit = self.found, end.unit
        found.busy += end.time - end.began
        if not end.dies:
            results: list[Any] = []
            if unit.part == REDUCE:
                results = self.schedule.results(unit.item)
            noted = self.schedule.done(end.place, None)
            found.repeated += noted is None and unit.part != REDUCE
            found.given_up += any(isinstance(r, Lost) for r in results)
            return
        found.deaths += 1
        found.lost += end.time - end.began
        del self.until[end.place]
        given_up = self.schedule.lost(end.place, "failure")
        found.given_up += given_up is not None and given_up.part == REDUCE


def _life(rng: np.random.Generator, mean: float) -> float:
    return float(rng.exponential(mean)) if np.isfinite(mean) else float("inf")

"""The race of models: what it saves, what it keeps, and that it never spends more than allowed."""

from __future__ import annotations

import dataclasses
import re
import time

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

import transfer_metrics as tm
from transfer_metrics import progress
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.features.forward import Forward
from transfer_metrics.ranking import race as racing
from transfer_metrics.ranking.job import Job, Outcome
from transfer_metrics.ranking.race import (
    _LEAST,
    _LEAST_PER_CLASS,
    _PROBE,
    _contenders,
    _relative_costs,
    _rounds_of,
    _Standing,
    plan_race,
)
from transfer_metrics.results.chances import Trust
from transfer_metrics.results.error_model import ErrorModel, MetricTrust
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.tasks.subtasks import nested_order

pytestmark = pytest.mark.integration

CLASSES, SIGNAL, NOISE = 4, 8, 16


class Candidate(nn.Module):
    """Projects the part of its input that knows the class, times its quality, among noise.

    It counts the examples that it is given.
    """

    def __init__(self, quality, seed, fail_after=None):
        super().__init__()
        rng = np.random.default_rng(seed)
        signal = quality * np.linalg.qr(rng.standard_normal((SIGNAL, SIGNAL)))[0]
        # Orthonormal rows: in distribution, candidates differ in their quality only.
        noise = np.linalg.qr(rng.standard_normal((NOISE, SIGNAL)))[0].T
        self.features = nn.Linear(SIGNAL + NOISE, SIGNAL, bias=False)
        self.features.weight.data = torch.from_numpy(np.hstack([signal, noise]).astype(np.float32))
        self.head = nn.Linear(SIGNAL, CLASSES)
        nn.init.constant_(self.head.weight, 0.1)
        nn.init.zeros_(self.head.bias)
        self.examples, self.fail_after = 0, fail_after

    def forward(self, x):
        self.examples += len(x)
        if self.fail_after is not None and self.examples > self.fail_after:
            raise RuntimeError("out of cheese")
        return self.head(self.features(x))


def draw(seed, n=600):
    """Arrays of which the first columns know the class."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % CLASSES)
    x = rng.standard_normal((n, SIGNAL + NOISE))
    x[:, :SIGNAL] = 0.5 * x[:, :SIGNAL] + 2 * np.eye(CLASSES, SIGNAL)[y]
    return x.astype(np.float32), y


def field(qualities, order=None, **options):
    """Candidates of given qualities, named by their place in that list."""
    models = [
        Model(f"m{i}", Candidate(q, i, **options), None, "tensor", "head", (SIGNAL + NOISE,))
        for i, q in enumerate(qualities)
    ]
    return models if order is None else [models[i] for i in order]


def examples(models):
    return sum(m.module.examples for m in models)


def rank(models, task, metrics="h_score", **options):
    options = {"layers": "last", "cache": "never", "progress": False, **options}
    return tm.rank_models(models, task, metrics, **options)


def plain(table):
    """Records without what changes from run to run.

    The last bit of an error depends on where in memory its matrices lie.
    """
    unlike = ("seconds", "load_seconds", "extract_seconds", "statistics_seconds", "created")
    found = [{k: v for k, v in r.items() if k not in unlike} for r in table.records]
    for record in found:
        for name in ("stderr", "deviations"):
            if record[name] is not None:
                record[name] = np.round(record[name], 12).tolist()
    return found


# --- what it saves and what it keeps -------------------------------------------------------------


def simulate(metric, repeats, n, best):
    """Losses of the best of 100 by race and by full pass, and the dearest race's share."""
    qualities = [*np.linspace(0.2, 1.0, 99), best]
    lost, share = np.zeros(2, int), 0.0
    for seed in range(repeats):
        task = draw(seed, n)
        models = field(qualities, np.random.default_rng(seed).permutation(100))
        race = rank(models, task, metric, budget=1 / 3)
        raced = examples(models)
        full = rank(models, task, metric)
        share = max(share, raced / (examples(models) - raced))
        lost += [race.best() != "m99", full.best() != "m99"]
    return lost, share


def test_a_hundred_candidates_save_two_thirds_and_keep_the_best():
    lost, share = simulate("knn", 1, 600, best=1.1)
    assert share <= 1 / 3
    assert list(lost) == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "repeats"), [("h_score", 8), ("ridge_probe", 8), ("knn", 12)])
def test_a_race_loses_the_best_no_more_often_than_the_full_pass(metric, repeats):
    # Above the others by so little that a full pass sometimes takes one of them for the best.
    lost, share = simulate(metric, repeats, 1500, best=1.03)
    assert share <= 1 / 3
    assert lost[1] < repeats
    # One-sided test at 1 % that the race has not lost more often.
    pooled = lost.sum() / (2 * repeats)
    noise = stats.norm.ppf(0.99) * np.sqrt(2 * repeats * pooled * (1 - pooled))
    assert lost[0] - lost[1] <= noise


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sklearn:digits", "zoo:glyphs"])
@pytest.mark.parametrize("metric", ["logme", "ridge_probe", "knn"])
def test_the_best_of_the_bundled_zoo_is_not_lost(task, metric):
    options = {"layers": "best", "cache": "only-missing"}
    full = rank("zoo:*", task, metric, **options)
    race = rank("zoo:*", task, metric, budget=0.4, **options)
    data = tm.load_task(task)
    costs = {name: Forward(tm.load_model(name), data).cost() for name in race.ranking()["model"]}
    spent = sum(costs[r.model] * r.n for r in race.ranking().itertuples())
    assert spent <= 0.4 * sum(costs.values()) * len(data["train"])
    assert race.best() == full.best()


class Wide(Candidate):
    """One that takes many times as long, and multiplies as often more."""

    def __init__(self, quality, seed, width):
        torch.manual_seed(seed)
        super().__init__(quality, seed)
        self.wide = nn.Sequential(
            nn.Linear(SIGNAL + NOISE, width, bias=False), nn.Linear(width, 1, bias=False)
        )
        self.width = width

    def forward(self, x):
        self.wide(x)
        return super().forward(x)

    @property
    def cost(self):
        """Of one example, by hand: two operations for each weight, a hundred for each output."""
        ins = SIGNAL + NOISE
        products = ins * (self.width + SIGNAL) + self.width + SIGNAL * CLASSES
        return 2 * products + 100 * (self.width + 1 + SIGNAL + CLASSES)


def unequal(n, best, widest=3000):
    """Candidates of which the better ones take longer, and the same once more for a full pass."""
    qualities = [*np.linspace(0.2, 1.0, n - 1), best]
    widths = np.geomspace(1, widest, n).astype(int)
    return [
        Model(f"m{i}", Wide(q, i, int(w)), None, "tensor", "head", (SIGNAL + NOISE,))
        for i, (q, w) in enumerate(zip(qualities, widths, strict=True))
    ]


def spent_of(models):
    return sum(m.module.examples * m.module.cost for m in models)


def test_the_cost_of_a_pass_by_hand():
    for model in unequal(3, 1.0):
        forward = Forward(model, tm.load_task(*draw(0)))
        before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
        assert forward.cost() == forward.cost() == model.module.cost
        assert all((model.module.state_dict()[k] == v).all() for k, v in before.items())
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, groups=1), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)
    )
    model = Model("net", network.eval(), None, "tensor", "3", (3, 8, 8))
    task = tm.load_task(np.zeros((9, 3, 8, 8), np.float32), np.arange(9) % 2)
    numbers = 288 + 288 + 5  # flattened, they are where they were
    assert Forward(model, task).cost() == 2 * (36 * 8 * 27 + 288 * 5) + 100 * numbers


def test_a_race_of_unequal_networks_keeps_its_budget_and_the_best():
    # By examples alone, those that lead take most of what all take.
    task, models = draw(3, 1000), unequal(100, 1.1)
    race = rank(models, task, "knn", budget=1 / 3)
    raced = spent_of(models)
    full = rank(models, task, "knn")
    assert raced <= (spent_of(models) - raced) / 3
    assert race.best() == full.best() == "m99"
    again = rank(unequal(100, 1.1), task, "knn", budget=1 / 3)
    assert plain(again) == plain(race)


def test_a_race_goes_on_with_the_costs_that_it_had(tmp_path):
    kept = {"cache": "only-missing", "cache_dir": tmp_path, "budget": 0.5}
    first = rank(unequal(8, 1.1, widest=30), draw(2), "knn", **kept)
    again = rank(unequal(8, 1.1, widest=30), draw(2), "knn", **kept)
    anew = rank(unequal(8, 1.1, widest=30), draw(2), "knn", budget=0.5)
    assert plain(again) == plain(first) == plain(anew)


def test_one_network_that_is_too_large_for_the_budget_is_told():
    models = unequal(8, 1.1, widest=30)
    models[-1].module.__init__(1.1, 7, 100_000)
    with pytest.warns(TransferMetricsWarning, match=r"the race costs \d\.\d+ .* not 0\.4"):
        table = rank(models, draw(2), "knn", budget=0.4)
    assert table.best() == "m7"
    assert {r["n"] for r in table.records if r["model"] == "m7"} == {600}


def test_a_race_over_its_budget_is_told_with_what_loading_takes(monkeypatch):
    models = unequal(8, 1.1, widest=30)
    passes = 600 * sum(model.module.cost for model in models)
    # A quarter of what all passes take, so that half of what the budget has is left for passes.
    visits = 0.25 * passes
    monkeypatch.setattr(racing, "_VISIT", visits / 8)
    with pytest.warns(TransferMetricsWarning) as told:
        rank(models, draw(2), "knn", budget=0.4)
    [text] = [str(w.message) for w in told if "the race costs" in str(w.message)]
    share, meant = map(
        float, re.search(r"costs (\S+) of a full ranking, not (\S+):", text).groups()
    )
    assert spent_of(models) <= 0.4 * passes, "by passes alone there is nothing to tell"
    spent = (visits + spent_of(models)) / (visits + passes)
    assert spent <= share <= spent + 0.04  # what finding layers takes is a bound
    assert share > meant == 0.4


def test_what_cannot_be_counted_counts_as_the_mean():
    costs = _relative_costs({0: Outcome([], cost=10), 1: Outcome([]), 2: Outcome([], cost=30)})
    assert costs == {0: 0.5, 1: 1.0, 2: 1.5}
    assert _relative_costs({0: Outcome([])}) == {0: 1.0}


# --- the budget ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "budget"), [("h_score", 1 / 3), ("knn", 0.2), ("knn", 0.6), ("knn", 0.9)]
)
def test_the_budget_is_never_exceeded(metric, budget):
    models = field(np.linspace(0.95, 1.0, 12))  # so close that few fall to the test
    task = draw(1)
    table = rank(models, task, metric, budget=budget)
    assert examples(models) <= budget * 12 * 600
    # What the table says is what was run, but for finding layers.
    seen = table.ranking()["n"].sum()
    assert seen <= examples(models) <= seen + 12 * _PROBE * 4
    assert (table.ranking()["n"] == 600).any()


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 300), st.integers(1, 5000), st.integers(0, 60), st.floats(0.001, 0.999),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_any_race_fits_its_plan(models, n, classes, budget, random):
    least = max(_LEAST, _LEAST_PER_CLASS * classes)
    try:
        plan = plan_race(models, n, classes, budget)
    except InvalidInputError:
        needed = models * (least + _PROBE) + n - least + _PROBE
        assert n <= least or needed > budget * models * n - 1
        return
    assert plan.sizes[-1] == n
    assert plan.sizes[0] >= least
    assert all(a < b for a, b in zip(plan.sizes, plan.sizes[1:], strict=False))
    costs = {i: 100 ** random.random() for i in range(models)}
    mean = sum(costs.values()) / models
    costs = {i: cost / mean for i, cost in costs.items()}
    alive, spent = random.sample(range(models), models), 0.0
    for stage in range(len(plan.sizes)):
        if stage:
            places = plan.fitting(stage, spent, costs, alive)
            if stage == 1 and places == alive[:1]:  # one is never too large
                return
            # The test may drop as many as it likes.
            alive = random.sample(places, random.randint(1, len(places)))
        spent += sum(costs[i] for i in alive) * plan.cost(stage)
    assert spent <= budget * models * n + 1e-6


def test_those_who_fit_go_on():
    plan = plan_race(100, 4000, 10, 1 / 3)
    costs = dict.fromkeys(range(100), 1.0) | {3: 40.0, 4: 1.5}
    spent = 100 * plan.cost(0)
    order = list(range(100))
    found = plan.fitting(1, spent, costs, order)
    same = plan.fitting(1, spent, dict.fromkeys(order, 1.0), order)
    assert same == list(range(len(same)))
    # One that takes as much as forty does not, but those behind it, one fewer for the larger one.
    assert found == [0, 1, 2, *range(4, len(same))]
    assert plan.fitting(1, spent, costs, [3, 0, 1])[0] == 3
    assert plan.fitting(1, spent, costs, []) == []


@pytest.mark.parametrize("budget", [0, 1, 1.5, -0.3, float("nan"), "half", True])
def test_silly_budgets_are_refused_before_any_work(budget):
    models = field([0.5, 1.0, 1.5])
    with pytest.raises(InvalidInputError, match="budget"):
        rank(models, draw(0), budget=budget)
    assert examples(models) == 0


def test_a_budget_too_small_says_what_would_do():
    models = field(np.linspace(0.5, 1.0, 10))
    with pytest.raises(InvalidInputError, match=r"too small for 10 models.*take 0\.19"):
        rank(models, draw(0), budget=0.1)
    rank(models, draw(0), budget=0.19)
    with pytest.raises(InvalidInputError, match="too few to race"):
        rank(field([1.0]), draw(0), budget=0.5)
    with pytest.raises(InvalidInputError, match="too few to race"):
        rank(models, draw(0, 36), budget=0.5)


def test_a_score_that_compares_candidates_cannot_race():
    with pytest.raises(InvalidInputError, match=r"ncti.*ncti_spread"):
        rank(field([1.0] * 9), draw(0), "ncti", budget=0.5)


# --- what comes out ------------------------------------------------------------------------------


def test_survivors_have_the_scores_of_a_full_pass():
    models, task = field(np.linspace(0.6, 1.0, 8)), draw(2)
    race = rank(models, task, ["h_score", "knn"], budget=0.5, intervals=True, layers="best")
    full = rank(models, task, ["h_score", "knn"], intervals=True, layers="best")
    of_all = {(r["model"], r["layer"], r["metric"]): r for r in full.records}
    survivors = [r for r in race.records if r["round"] is None]
    assert survivors
    for r in survivors:
        whole = of_all[r["model"], r["layer"], r["metric"]]
        assert r["n"] == 600
        assert r["value"] == pytest.approx(whole["value"], rel=1e-6)
        if r["metric"] == "h_score":
            # The blocks are those of the examples' places in the split.
            assert r["deviations"] == pytest.approx(whole["deviations"], rel=1e-3, abs=1e-7)
    assert {r["metric"] for r in race.records} == {"h_score", "knn"}
    assert {r["model"] for r in race.records} == {m.name for m in models}


def test_dropped_models_have_the_scores_of_their_subset():
    models, task = field(np.linspace(0.3, 1.0, 8)), draw(3)
    race = rank(models, task, ["h_score", "knn"], budget=0.5)
    x, y = task
    order = nested_order(y, CLASSES)
    dropped = [r for r in race.records if r["round"] is not None]
    assert dropped
    for r in dropped:
        rows = order[: r["n"]]
        net = models[int(r["model"][1:])].module
        with torch.inference_mode():
            features = net.features(torch.from_numpy(x[rows]))
        expected = float(getattr(tm, r["metric"])(features, y[rows]))
        assert r["value"] == pytest.approx(expected, rel=1e-5)


def test_a_race_by_what_the_source_head_says():
    models, (x, y) = field(np.linspace(0.3, 1.0, 8)), draw(3)
    for model in models:
        model.module.head.weight.data = 3 * torch.eye(CLASSES, SIGNAL)
    race = rank(models, (x, y), "leep", budget=0.5)
    assert not race.failures
    order = nested_order(y, CLASSES)
    for r in race.records:
        rows = order[: r["n"]] if r["round"] else np.arange(len(y))
        with torch.inference_mode():
            said = models[int(r["model"][1:])].module(torch.from_numpy(x[rows])).softmax(1)
        assert r["value"] == pytest.approx(tm.score(said, y[rows], "leep").records[0]["value"])
        # By the errors of what it compares a round drops.
        assert (r["stderr"] is None) == (r["round"] is None)


def test_the_ranking_puts_survivors_first_and_rounds_in_order():
    base = {"layer": "l", "layer_index": 0, "metric": "knn", "stderr": 0.01, "seconds": 1.0}
    rows = [("a", 0.9, 1, 50), ("b", 0.5, 2, 100), ("c", 0.6, None, 400), ("d", 0.7, None, 400)]
    table = tm.ScoreTable(
        [{**base, "model": m, "value": v, "round": r, "n": n} for m, v, r, n in rows]
        + [{"model": "e", "metric": "", "error": "no"}]
    )
    ranking = table.ranking()
    assert list(ranking["model"]) == ["d", "c", "b", "a", "e"]
    assert list(ranking["n"])[:4] == [400, 400, 100, 50]
    # What the others scored in the rounds that dropped some is not known.
    assert ranking["p_best"].isna().all()
    assert "not known how likely" in table.format()
    with pytest.raises(InvalidInputError, match="not known how likely"):
        table.shortlist()
    assert table.best() == "d"
    assert table.format().splitlines()[0].endswith("  n")
    assert table.difference("d", "c")[0] == pytest.approx(0.1)
    with pytest.raises(InvalidInputError, match="do not compare"):
        table.difference("d", "a")
    accuracies = dict(zip("abcd", (0.1, 0.2, 0.3, 0.4), strict=True))
    more = [{**base, "model": "f", "value": 0.8, "n": 400}]
    with pytest.warns(TransferMetricsWarning, match="left out"):
        found = (table + tm.ScoreTable(more)).agreement(accuracies | {"f": 0.5})
    assert set(found["n"]) == {3}


def raced(rows):
    """A table of models with their scores on 100 examples, and on 1000 unless dropped."""
    base = {
        "layer": "l", "metric": "knn", "dim": 64, "num_classes": 10, "split": "train", "task": "t",
        "task_summary": "t: classification of images, ",
    }  # fmt: skip
    return tm.ScoreTable(
        {**base, "model": m, "value": few, "n": 100, "round": 1}
        if many is None
        else {**base, "model": m, "value": many, "n": 1000, "earlier": [100, few]}
        for m, few, many in rows
    )


def test_chances_after_a_race_are_of_all_candidates():
    few = {"a": 0.9, "b": 0.85, "c": 0.84, "d": 0.2}
    table = raced([("a", 0.9, 0.95), ("b", 0.85, 0.94), ("c", 0.84, None), ("d", 0.2, None)])
    found = table.ranking().set_index("model")["p_best"]
    # One that was dropped has the chance that it had in its round, among all who were in it.
    first = raced([(m, s, None) for m, s in few.items()]).ranking().set_index("model")["p_best"]
    assert found[["c", "d"]].tolist() == pytest.approx(first[["c", "d"]].tolist())
    # The others share the rest as they would if all had gone on with the same gain.
    rows = [("a", 0.9, 0.95), ("b", 0.85, 0.94), ("c", 0.84, 0.91), ("d", 0.2, 0.27)]
    all_on = raced(rows).ranking().set_index("model")["p_best"]
    rest = 1 - first["c"] - first["d"]
    assert found["a"] == pytest.approx(rest * all_on["a"] / (all_on["a"] + all_on["b"]), abs=0.01)
    assert found.sum() == pytest.approx(1.0)
    short = table.shortlist()
    assert short.candidates == 4
    assert short.dropped == 2
    assert "c" in short
    assert short.probability < 1
    assert "2 that a race dropped count by scores of fewer examples" in str(short)


def test_chances_after_a_race_of_a_relative_metric_are_those_of_its_logarithms():
    """Scores that improve by factors of a million, as gbc does, move by factors."""
    rows = [
        ("a", 2.0, 14.0, 0.5),
        ("b", 1.8, 14.5, 0.6),
        ("c", 1.5, None, 0.4),
        ("d", 0.1, None, 1),
    ]
    base = {"layer": "l", "metric": "m", "higher_is_better": True}

    def table(of, error, **options):
        return tm.ScoreTable(
            {**base, **options, "model": m, "value": of(few), "stderr": error(few, e), "n": 100}
            | {"round": 1}
            if many is None
            else {**base, **options, "model": m, "value": of(many), "stderr": error(many, e)}
            | {"n": 400, "earlier": [100, of(few)]}
            for m, few, many, e in rows
        )

    plain = table(lambda v: v, lambda v, e: e)
    uneven = table(lambda v: -np.exp(-v), lambda v, e: e * np.exp(-v), relative=True)
    one, other = (t.ranking().set_index("model") for t in (plain, uneven))
    assert other["p_score"].to_dict() == pytest.approx(one["p_score"].to_dict(), abs=1e-9)
    assert other["p_best"].sum() == pytest.approx(1.0)
    # A score that was rounded to zero has no error, and nothing breaks.
    [first, *rest] = uneven.records
    zero = tm.ScoreTable([{**first, "value": 0.0, "stderr": None}, *rest]).ranking()
    assert zero["model"][0] == "a"
    assert zero["p_best"].sum() == pytest.approx(1.0)
    assert zero["p_score"].isna().all()


def test_one_that_is_left_is_not_surely_the_best():
    table = rank(field([0.95, 1.0, 0.98, 0.97, 0.3]), draw(3), "knn", budget=0.5)
    found = table.ranking()
    assert found["p_best"].max() < 0.9
    assert found["p_best"].sum() == pytest.approx(1.0)
    assert found["p_score"].sum() == pytest.approx(1.0)
    full = rank(field([0.95, 1.0, 0.98, 0.97, 0.3]), draw(3), "knn").ranking()
    assert found["p_best"].max() < full["p_best"].max() + 0.2
    assert all(r["earlier"][-2] < r["n"] for r in table.records if r["round"] is None)


@pytest.mark.parametrize("kept", [1, 3, 5])
def test_shortlists_after_a_race_hold_the_best_where_the_truth_is_known(kept):
    # Tasks as the model of errors says, on which 12 models race.
    rng = np.random.default_rng(kept)
    few, many = Trust(1.0, 0.0), Trust(1.25, 0.0)
    errors = ErrorModel(
        {"knn": MetricTrust(many.mean, 0.0, many.mean - few.mean)}, 0.0, Trust(0.3, 0.6),
        ranges={"n": (100, 1000)},
    )  # fmt: skip
    held = []
    for _ in range(100):
        u = rng.standard_normal(12)
        then, now = (
            np.tanh(t.mean) * u + rng.standard_normal(12) / np.cosh(t.mean) for t in (few, many)
        )
        order = np.argsort(-then)
        rows = [
            (f"m{i}", float(then[i] - 2), float(now[i]) if place < kept else None)
            for place, i in enumerate(order)
        ]
        found = raced(rows).shortlist(0.9, evidence=errors)
        held.append(f"m{u.argmax()}" in found)
    # Three standard errors of 100 tasks below what was asked for.
    assert np.mean(held) >= 0.9 - 3 * 0.03
    assert errors.trust("knn", n=100)[0] == few


def test_a_race_with_evidence_of_ones_own_trusts_each_round_by_its_examples(tmp_path):
    own = MetricTrust(1.5, 0.1, by_n=1.0)
    errors = ErrorModel({"knn": own}, 0.0, Trust(0.3, 0.6), ranges={"n": (100, 1000)})
    rows = [("a", 0.9, 0.95), ("b", 0.85, 0.94), ("c", 0.84, None)]
    told = raced(rows).informed(errors)
    assert [r["trust"][0] for r in told.records] == [1.5, 1.5, 0.5]
    for name in ("t.jsonl", "t.csv"):
        told.save(tmp_path / name)
        again = tm.ScoreTable.load(tmp_path / name)
        assert again.shortlist().chances == pytest.approx(told.shortlist().chances)
        assert again.records[0]["earlier"] == [100, 0.9]


def test_models_that_there_was_no_time_for_have_their_share_of_the_chances(tmp_path, waiting):
    with pytest.warns(TransferMetricsWarning, match="over before 1 model"):
        table = rank(waiting(100), draw(1), "knn", time="1h")
    found = table.ranking().set_index("model")["p_best"]
    # Nothing tells the late one from the others, so three of four hold the best with 3/4.
    assert found.sum() == pytest.approx(0.75)
    assert np.isnan(found["late"])
    short = table.shortlist()
    assert short.probability <= 0.75
    assert (short.candidates, short.late) == (4, 1)
    assert "For 1 of them there was no time" in table.format()
    prior = {"m0": 1.0, "m1": 2.0, "m2": 3.0, "late": 40.0}
    assert table.informed(prior=prior).ranking()["p_best"].sum() < 0.6


def test_a_race_is_the_same_every_time_and_in_any_order():
    task, qualities = draw(4), np.linspace(0.5, 1.0, 10)
    first = rank(field(qualities), task, "knn", budget=0.4)
    again = rank(field(qualities), task, "knn", budget=0.4)
    assert plain(again) == plain(first)
    mixed = field(qualities, np.random.default_rng(0).permutation(10))
    shuffled = rank(mixed, task, "knn", budget=0.4)
    by_name = {(r["model"], r["layer"]): r for r in plain(shuffled)}
    assert [by_name[r["model"], r["layer"]] for r in plain(first)] == plain(first)


def test_a_loss_races_downwards():
    def distance(moments):
        return -float(moments.between_rows.square().sum() / moments.total.trace())

    loss = dataclasses.replace(tm.get_metric(distance), higher_is_better=False)
    race = rank(field(np.linspace(0.3, 1.0, 8)), draw(5), loss, budget=0.4)
    assert race.best() == "m7"
    assert rank(field(np.linspace(0.3, 1.0, 8)), draw(5), loss).best() == "m7"


@pytest.mark.parametrize("layers", ["best", "blocks", "features", ["features", "head:input"]])
def test_choices_of_layers(layers):
    race = rank(field(np.linspace(0.3, 1.0, 6)), draw(6), "knn", budget=0.5, layers=layers)
    assert race.ranking()["model"][0] == "m5"
    assert not race.failures


def test_regression():
    x, y = draw(7)
    task = (x, y + 0.5 * x[:, 0])
    for metric in ("ridge_probe", "knn"):
        models = field(np.linspace(0.2, 1.0, 6))
        race = rank(models, task, metric, budget=0.5)
        assert race.best() == rank(models, task, metric).best()


# --- failures and interruptions ------------------------------------------------------------------


def test_a_model_that_fails_is_a_row_in_whichever_round():
    models = field(np.linspace(0.3, 1.0, 8))
    models[0].module.fail_after = 0
    models[7].module.fail_after = 200  # the best, and it gets that far
    table = rank([*models, "zoo:no-such-net"], draw(8), "knn", budget=0.5)
    failures = {r["model"]: r["error"] for r in table.failures}
    assert set(failures) == {"m0", "m7", "zoo:no-such-net"}
    assert "out of cheese" in failures["m7"]
    assert table.best() == "m6"
    assert len(table.ranking()) == 9


def test_where_all_fail_the_table_says_so():
    models = field(np.linspace(0.3, 1.0, 8), fail_after=0)
    table = rank(models, draw(8), budget=0.5)
    assert len(table.failures) == 8


@pytest.mark.parametrize(
    ("metric", "after"), [("h_score", 1000), ("knn", 1), ("knn", 300), ("knn", 1000)]
)
def test_an_interrupted_race_goes_on_where_it_stopped(tmp_path, metric, after):
    task, qualities = draw(9), np.linspace(0.5, 1.0, 8)
    undisturbed = field(qualities)
    expected = rank(undisturbed, task, metric, budget=0.5)
    total = examples(undisturbed)
    assert total > after
    models, seen = field(qualities), [0]

    def count(module, inputs):
        seen[0] += len(inputs[0])
        if seen[0] > after:
            raise KeyboardInterrupt

    for model in models:
        model.module.register_forward_pre_hook(count)
    options = {"budget": 0.5, "cache": "only-missing", "cache_dir": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        rank(models, task, metric, **options)
    # The hooks stay, or the networks would be others.
    seen[0] = -(10**9)
    # The store that was being written is computed again from its last finished shard.
    wasted = max(np.diff([0, *(r["n"] for r in expected.records)])) + _PROBE
    assert plain(rank(models, task, metric, **options)) == plain(expected)
    assert examples(models) <= total + wasted
    # And a finished one does nothing again, and leaves no features behind.
    before = examples(models)
    assert plain(rank(models, task, metric, **options)) == plain(expected)
    assert plain(rank(models, task, metric, **{**options, "cache": "only-cache"})) == plain(
        expected
    )
    assert examples(models) == before
    assert not list((tmp_path / "features").rglob("*.safetensors"))


def test_policies_of_the_cache(tmp_path):
    models, task = field(np.linspace(0.5, 1.0, 8)), draw(10)
    options = {"budget": 0.5, "cache_dir": tmp_path}
    absent = rank(models, task, cache="only-cache", **options)
    assert len(absent.failures) == 8
    first = rank(models, task, cache="only-missing", **options)
    seen = examples(models)
    assert plain(rank(models, task, cache="always", **options)) == plain(first)
    seen = 2 * seen - 8 * 7  # that features are sound, and what a pass costs, is known by now
    assert examples(models) == seen
    # The scores of survivors are those of a full ranking, which need not compute them.
    survivors = {r["model"] for r in first.records if r["round"] is None}
    rank(models, task, cache="only-missing", cache_dir=tmp_path)
    assert examples(models) == seen + (8 - len(survivors)) * 601  # one once more, alone
    # Another budget has other rounds, and nothing of this one misleads it.
    other = rank(models, task, cache="only-missing", budget=0.4, cache_dir=tmp_path)
    fresh = rank(models, task, budget=0.4)
    assert [(r["model"], r["n"]) for r in other.records] == [
        (r["model"], r["n"]) for r in fresh.records
    ]
    values = [r["value"] for r in fresh.records]
    assert [r["value"] for r in other.records] == pytest.approx(values, rel=1e-6)


def test_features_are_kept_where_asked(tmp_path):
    models, task = field(np.linspace(0.5, 1.0, 8)), draw(10)
    options = {"budget": 0.5, "cache": "only-missing", "cache_dir": tmp_path, "keep_features": True}
    rank(models, task, "h_score", **options)
    seen = examples(models)
    rank(models, task, ["h_score", "knn"], **options)
    assert examples(models) == seen


@pytest.mark.parametrize("engine", ["serial", "processes"])
def test_the_progress_of_a_race_is_shown_on_every_engine(engine, capsys, monkeypatch):
    from transfer_metrics.ranking import race

    bars, real = [], race.progress_bar
    monkeypatch.setattr(race, "progress_bar", lambda *args: (bars.append(real(*args)), bars[-1])[1])
    models = ["zoo:cnn-mnist", "zoo:vit-mnist"]
    rank(models, "sklearn:digits", "knn", budget=0.6, engine=engine, workers=2, progress=True)
    assert "round 1 of" in capsys.readouterr().err
    assert (bars[0].n, bars[0].total) == (2, 2)
    if engine == "serial":
        rank(models, "sklearn:digits", "knn", budget=0.6)
        assert "round" not in capsys.readouterr().err


def test_kept_features_of_rounds_are_read_class_by_class(tmp_path, monkeypatch):
    from transfer_metrics.ranking import scoring

    task = draw(10)
    options = {"budget": 0.5, "cache": "only-missing", "keep_features": True}
    metric = "gbc(covariance=full)"
    models = field(np.linspace(0.5, 1.0, 8))
    plain_race = rank(models, task, metric, cache_dir=tmp_path / "a", **options)
    monkeypatch.setattr(scoring, "_CLASS_BYTES", 0)
    lazy = rank(models, task, metric, cache_dir=tmp_path / "b", **options)
    assert [r["value"] for r in lazy.records] == pytest.approx(
        [r["value"] for r in plain_race.records], rel=1e-9
    )


def test_the_command_line(tmp_path, capsys):
    from transfer_metrics.__main__ import main

    args = ["rank", "--models", "zoo:cnn-*,zoo:vit-*", "--task", "sklearn:digits", "--quiet"]
    args += ["--metrics", "knn", "--layers", "last", "--no-plots", "--out", str(tmp_path)]
    assert main([*args, "--budget", "0.6"]) == 0
    table = tm.ScoreTable.load(tmp_path / "scores.jsonl")
    assert table.ranking()["n"].nunique() > 1
    assert "  n" in capsys.readouterr().out.splitlines()[0]
    assert main([*args, "--budget", "7"]) == 2
    assert "budget" in capsys.readouterr().err


# --- the parts -----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=200))
@example([0, 0, 0, 0, 0, 0, 1, 2, 3, 4])
def test_every_beginning_of_the_order_is_stratified(labels):
    labels = np.array(labels)
    order = nested_order(labels, 5)
    assert sorted(order) == list(range(len(labels)))
    counts = np.bincount(labels, minlength=5)
    for s in range(1, len(labels) + 1):
        found = np.bincount(labels[order[:s]], minlength=5)
        beyond = found - counts * s / len(labels)
        assert (beyond <= 1 + 1e-9).all()
        assert (beyond >= -(counts > 0).sum() * counts / len(labels) - 1e-9).all()
        assert s < 5 or (found[counts > 0] > 0).all()


def test_the_order_is_random_within_classes():
    labels = np.zeros(2000, int)
    order = nested_order(labels, 1)
    assert abs(np.corrcoef(order, np.arange(2000))[0, 1]) < 0.1
    assert len(np.unique(nested_order(np.zeros(50), 0))) == 50


def of_rounds(x, y, sizes, stage=0, shard_size=16, **options):
    """The job of a race whose rounds look at so many examples."""
    job = Job.of(tm.load_task(x, y), "knn", options={"shard_size": shard_size}, **options)
    return dataclasses.replace(job, **_rounds_of(job, sizes), stage=stage)


def test_rounds_are_nested_and_keyed_by_content():
    x, y = draw(11, 200)
    small, large, whole = (of_rounds(x, y, [50, 120, 200], stage) for stage in range(3))
    seen = [np.concatenate(job.seen) for job in (small, large, whole)]
    assert [len(positions) for positions in seen] == [50, 120, 200]
    assert (seen[1][:50] == seen[0]).all()
    assert (seen[2][:120] == seen[1]).all()
    order = nested_order(y, CLASSES)
    assert set(seen[0]) == set(order[:50])
    # What is left of a round after shards of 16 joins the last of them.
    assert max(map(len, whole.ranges)) < 32
    positions = whole.ranges[1]
    part = whole.part(positions)["train"]
    assert (np.stack(list(part.examples)) == x[positions]).all()
    assert (part.labels == tm.load_task(x, y)["train"].labels[positions]).all()
    model = field([1.0])[0]
    keys = {job.scores_key(job.extraction(model)) for job in (small, large, whole)}
    assert len(keys) == 3
    full = Job.of(tm.load_task(x, y), "knn", options={"shard_size": 16})
    assert whole.scores_key(whole.extraction(model)) == full.scores_key(full.extraction(model))
    x[seen[2][0]] += 1  # any change of the data changes all keys
    changed = [of_rounds(x, y, [50, 120, 200], stage) for stage in range(3)]
    assert not keys & {job.scores_key(job.extraction(model)) for job in changed}


def test_contenders_by_paired_differences():
    rng = np.random.default_rng(0)
    common = rng.standard_normal(20)
    own = 0.01 * rng.standard_normal(20)
    error = float(np.linalg.norm(common))
    leader = _Standing(1.0, error, common)
    # What hits both alike cancels, so a small gap is enough; against another it is not.
    shared = _Standing(0.5, error, common + own)
    apart = _Standing(0.5, error, rng.permutation(common))
    assert _contenders([shared, leader, apart], 0.001) == [1, 2]
    gap = stats.t.ppf(0.999, 19) * np.linalg.norm(own)
    for factor, stays in ((0.99, True), (1.01, False)):
        other = _Standing(1.0 - factor * gap, error, common + own)
        assert (1 in _contenders([leader, other], 0.001)) == stays
    # An unknown error drops nobody, a certain one everybody who is below.
    assert _contenders([_Standing(1.0), _Standing(0.0)], 0.001) == [0, 1]
    certain = [_Standing(1.0, 0.0), _Standing(0.5, 0.0), _Standing(1.0, 0.0)]
    assert _contenders(certain, 0.1) == [0, 2]
    assert _contenders([], 0.1) == []


def test_the_test_drops_the_best_no_more_often_than_its_risk():
    """Fifty models, of which one is the best by a hair, with errors that blocks estimate."""
    rng = np.random.default_rng(1)
    truth = np.append(np.zeros(49), 1e-9)
    lost = 0
    for _ in range(400):
        noise = rng.standard_normal((50, 20)) + 2 * rng.standard_normal(20)
        scores = truth + noise.mean(axis=1)
        # Deviations whose norm is the standard error of the mean of twenty blocks.
        spread = (noise - noise.mean(axis=1, keepdims=True)) / np.sqrt(20 * 19)
        standings = [_Standing(s, 1.0, d) for s, d in zip(scores, spread, strict=True)]
        lost += 49 not in _contenders(standings, 0.05 / 50)
    assert lost <= stats.binom.ppf(0.99, 400, 0.05)


# --- a limit of time -----------------------------------------------------------------------------


class Clock:
    """The time of day, and hours more as soon as they have passed; so no machine is too slow."""

    monotonic = staticmethod(time.monotonic)
    passed = 0.0

    def time(self):
        return time.time() + self.passed


class Waiting(Candidate):
    """Hours pass in it once it has seen some examples."""

    def __init__(self, after, clock):
        super().__init__(1.1, 7)
        self.after, self.clock = after, clock

    def forward(self, x):
        out = super().forward(x)
        if self.examples > self.after:
            self.clock.passed = 7200.0
        return out


@pytest.fixture
def waiting(monkeypatch):
    """Four models, of which the last lets hours pass after so many examples."""

    def models(after=10**9):
        clock = Clock()
        monkeypatch.setattr(progress, "time", clock)
        late = Model("late", Waiting(after, clock), None, "tensor", "head", (SIGNAL + NOISE,))
        return [*field([0.2, 0.4, 0.6]), late]

    return models


def test_a_ranking_ends_with_what_is_known_when_the_time_is_over(tmp_path, waiting):
    task, kept = draw(1), {"cache": "only-missing", "cache_dir": tmp_path}
    models = waiting(100)
    with pytest.warns(TransferMetricsWarning, match=r"over before 1 model of 4: late"):
        table = rank(models, task, time="1h", **kept)
    assert [f["model"] for f in table.failures] == ["late"]
    scored = {r["model"]: r["value"] for r in table.records if r["value"] is not None}
    done, models = examples(models[:3]), [*models[:3], waiting()[3]]
    again = rank(models, task, time="1h", **kept)
    full = {r["model"]: r["value"] for r in again.records}
    assert {name: full[name] for name in scored} == scored
    assert not again.failures
    assert again.best() == "late"
    assert examples(models[:3]) <= done + 3 * _PROBE  # the others were taken from the cache


def test_a_race_that_runs_out_of_time_keeps_its_last_whole_round(tmp_path, waiting):
    task, kept = draw(1), {"cache": "only-missing", "cache_dir": tmp_path, "budget": 0.6}
    first, *_ = plan_race(4, 600, CLASSES, 0.6).sizes
    with pytest.warns(TransferMetricsWarning, match=rf"over in round 2 of .*, on {first} of 600"):
        table = rank(waiting(first + 2 * _PROBE), task, time=3600, **kept)
    assert not table.failures
    assert {r["n"] for r in table.records} == {first}
    whole = rank(waiting(), task, **kept)
    assert whole.best() == "late"
    assert {r["n"] for r in whole.records if r["model"] == "late"} == {600}


NO_RESULT = "over before any model was scored, and late was all the same"


@pytest.mark.parametrize("before", [[], ["zoo:no-such-net"]])
@pytest.mark.filterwarnings("ignore:the time was over before 3 models")
def test_one_model_is_scored_however_long_that_takes(before, waiting):
    task, (*others, late) = draw(1), waiting(100)
    with pytest.warns(TransferMetricsWarning, match=NO_RESULT):
        table = rank([*before, late, *others], task, time="1h")
    x, y = task
    by_hand = x.astype(np.float64) @ late.module.features.weight.detach().double().numpy().T
    expected = tm.score(by_hand, y, "h_score").records[0]["value"]
    [found] = [r for r in table.records if r["value"] is not None]
    assert (found["model"], found["n"]) == ("late", 600)
    assert found["value"] == pytest.approx(expected, rel=1e-4)
    assert [f["model"] for f in table.failures] == [*before, "m0", "m1", "m2"]
    assert examples(others) == 0
    if not before:  # what was done when the time was over is not done again
        assert late.module.examples <= 600 + 3 * _PROBE


@pytest.mark.filterwarnings("ignore:the time was over in round 1")
def test_a_race_without_time_has_one_model_of_its_first_round(waiting):
    first, *_ = plan_race(4, 600, CLASSES, 0.6).sizes
    *others, late = waiting(2 * _PROBE)
    with pytest.warns(TransferMetricsWarning, match=NO_RESULT):
        table = rank([late, *others], draw(1), time="1h", budget=0.6)
    scored = [(r["model"], r["n"]) for r in table.records if r["value"] is not None]
    assert scored == [("late", first)]
    assert [f["model"] for f in table.failures] == ["m0", "m1", "m2"]


class Slow(Candidate):
    """Sleeps in its forward pass."""

    def forward(self, x):
        time.sleep(0.02)
        return super().forward(x)


@pytest.mark.filterwarnings("ignore:the time was over before")
def test_processes_without_time_score_one_model_as_well():
    models = [
        Model(f"m{i}", Slow(1.0, i), None, "tensor", "head", (SIGNAL + NOISE,)) for i in range(3)
    ]
    task = draw(1)
    table = rank(models, task, time=0.05, engine="processes", workers=2)
    [found] = [r for r in table.records if r["value"] is not None]
    assert sorted([found["model"], *(f["model"] for f in table.failures)]) == ["m0", "m1", "m2"]
    again = rank([m for m in models if m.name == found["model"]], task)
    assert found["value"] == pytest.approx(again.records[0]["value"], rel=1e-6)


def test_times_that_are_none_are_refused_before_any_work():
    models = field([0.5, 1.0])
    with pytest.raises(InvalidInputError, match="write 90s, 30m or 2h"):
        rank(models, draw(0), time="soon")
    assert examples(models) == 0

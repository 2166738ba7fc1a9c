"""Calibration of shortlists and priors on made-up worlds, where what must come out is known."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from tests import calibration_page as page
from tests.calibration import coverage, reliability, trials_of
from tests.prior_trials import combine
from transfer_metrics.results.chances import Trust
from transfer_metrics.results.error_model import bundled

MODELS = [f"m{i}" for i in range(12)]


def world(rho, tasks, seed=0, models=MODELS, shared=0.0):
    """Accuracies that models share over tasks as said, and scores that correlate with them."""
    rng = np.random.default_rng(seed)
    names = [f"t{i}" for i in range(tasks)]
    size = len(models), tasks
    quality = rng.standard_normal((len(models), 1))
    a = math.sqrt(shared) * quality + math.sqrt(1 - shared) * rng.standard_normal(size)
    s = rho * a + math.sqrt(1 - rho**2) * rng.standard_normal(size)
    return {"knn": pd.DataFrame(s, models, names)}, pd.DataFrame(a, models, names)


@pytest.mark.slow
def test_sets_of_a_true_model_hold_what_they_promise():
    scores, accuracies = world(0.7, 40)
    trust = Trust(math.atanh(0.7), 0.0)
    trials = list(trials_of(scores, accuracies, lambda *_: trust, subsets=1))
    assert len(trials) == 80
    assert sum(t.whole for t in trials) == 40
    for c in coverage(trials, resamples=100):
        assert c.low <= c.covered <= c.high
        # Two standard errors of 80 sets, and what sets hold beyond the level.
        assert c.level - 0.12 < c.covered
        assert c.lost >= 0
    told = reliability(trials)
    assert sum(row[-1] for row in told) == sum(len(t.chances) for t in trials)
    for chance, share, low, high, count in told:
        assert low <= share <= high
        if count > 100:
            assert chance == pytest.approx(share, abs=0.1)


def test_too_much_trust_shows():
    scores, accuracies = world(0.2, 40)
    sure = Trust(3.0, 0.0)
    found = coverage(list(trials_of(scores, accuracies, lambda *_: sure, subsets=0)), resamples=50)
    assert found[2].covered < 0.6


def test_score_and_standing_are_better_together():
    models = [f"m{i}" for i in range(60)]
    scores, accuracies = world(0.7, 8, models=models, shared=0.5)
    trust = Trust(math.atanh(0.7), 0.0)
    found = combine(
        "made up", "knn", scores["knn"], accuracies, lambda _: trust, bundled(), resamples=50
    )
    for part in ("score", "standing"):
        assert found.gains["weighted_kendall", part][1] > 0
    assert (found.tasks, found.models) == (8, 60)
    drawn = combine("drawn", "knn", None, accuracies, lambda _: trust, bundled(), resamples=30)
    assert drawn.values["weighted_kendall", "score"][0] == pytest.approx(
        found.values["weighted_kendall", "score"][0], abs=0.12
    )


def test_the_page_has_the_promise_and_what_came_of_it(tmp_path):
    scores, accuracies = world(0.8, 5)
    trust = Trust(1.0, 0.2)
    trials = list(trials_of(scores, accuracies, lambda *_: trust, subsets=1))
    one = combine("b", "knn", scores["knn"], accuracies, lambda _: trust, bundled(), resamples=20)
    found = page.Calibrated(
        bundled(), [page.Tried("tasks left out", trials, "knn")], {"b": trials}, [one], [one]
    )
    text = page.markdown(found, "python -m this", "picture.png")
    assert "at least 85 %" in text
    assert "at most 50 %" in " ".join(text.split())
    assert text.count("| knn, all candidates |") == 1
    assert "tie" in page.text(found) or "gain" in page.text(found)
    assert page.draw(trials, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000

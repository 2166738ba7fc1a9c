"""TransRate against the listing, closed forms, published values and its laws."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau, pearsonr, weightedtau
from sklearn.datasets import load_digits, load_iris, load_wine

import transfer_metrics as tm
from tests.published_transrate import auto, eps_page, experiments, fixed, own, share
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning

TOY_Z = np.random.default_rng(0).standard_normal((60, 8))
TOY_Y = np.arange(60) % 3


def listing(z, y, eps=1e-4):
    """The definition on full matrices, nothing clever."""

    def rate(m):
        n, d = m.shape
        return 0.5 * np.linalg.slogdet(np.eye(d) + m.T @ m / (n * eps))[1]

    z = z - z.mean(axis=0)
    classes = np.unique(y)
    return rate(z) - sum(rate(z[y == c]) for c in classes) / len(classes)


@pytest.mark.parametrize(
    ("load", "value"),
    [(load_iris, 0.5894054064), (load_wine, 2.6556692602), (load_digits, 50.2793122613)],
)
def test_golden_values_of_the_listing(load, value):
    assert tm.transrate(*load(return_X_y=True)) == pytest.approx(value, abs=1e-8)


@pytest.mark.parametrize(
    ("load", "value"), [(load_wine, 2.4495421535), (load_digits, 50.2864305112)]
)
def test_golden_values_with_frequency_weights(load, value):
    score = tm.transrate(*load(return_X_y=True), class_weights="frequency")
    assert score == pytest.approx(value, abs=1e-8)


@pytest.mark.parametrize(
    ("load", "centred", "projected"),
    [(load_iris, 0.2947332441, 0.9963329698), (load_wine, 0.2952938628, 0.6320058690)],
)
def test_golden_values_of_the_published_pipelines(load, centred, projected):
    x, y = load(return_X_y=True)
    assert tm.transrate(x, y, preset="centred") == pytest.approx(centred, abs=2e-9)
    assert tm.transrate(x, y, preset="projected") == pytest.approx(projected, abs=1e-9)


def test_toy_values():
    shifted = TOY_Z.copy()
    shifted[np.arange(60), TOY_Y] += 3
    assert tm.transrate(TOY_Z, TOY_Y) == pytest.approx(0.8561943053, abs=1e-9)
    assert tm.transrate(shifted, TOY_Y) == pytest.approx(1.3609153496, abs=1e-9)
    assert tm.transrate(TOY_Z, TOY_Y, class_center=True) == pytest.approx(1.1231902032, abs=1e-9)
    assert tm.transrate(shifted, TOY_Y, class_center=True) == pytest.approx(2.6899061114, abs=1e-9)


@pytest.mark.filterwarnings("ignore:100 different whole numbers")  # of one example each
@pytest.mark.parametrize("classes", [3, 5, 10, 100])
@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("eps", [1e-4, 1e-2])
def test_closed_form_of_one_hot_classes(classes, copies, eps):
    z = np.tile(np.eye(classes), (copies, 1))
    y = np.tile(np.arange(classes), copies)
    expected = 0.5 * (
        (classes - 1) * math.log1p(1 / (classes * eps)) - math.log1p((1 - 1 / classes) / eps)
    )
    assert tm.transrate(z, y, eps=eps) == pytest.approx(expected, abs=1e-10)


@pytest.mark.filterwarnings("ignore:all features vary by less than eps")
@pytest.mark.parametrize(("n", "d"), [(30, 80), (80, 30), (40, 40), (300, 7)])
@pytest.mark.parametrize("eps", [1e-5, 1e-2, 10.0])
def test_either_gram_side_is_the_listing(n, d, eps):
    rng = np.random.default_rng(n)
    z, y = rng.standard_normal((n, d)) + 2, rng.integers(0, 5, n)
    assert tm.transrate(z, y, eps=eps) == pytest.approx(listing(z, y, eps), rel=1e-9)


def test_duplicated_constant_and_dead_features_are_the_listing():
    rng = np.random.default_rng(3)
    z, y = rng.standard_normal((50, 6)), rng.integers(0, 3, 50)
    z = np.hstack([z, z, np.ones((50, 2)), np.zeros((50, 2))])
    assert tm.transrate(z, y) == pytest.approx(listing(z, y), rel=1e-9)
    assert tm.transrate(np.ones((6, 2)), np.arange(6) % 3) == 0.0


def test_frequency_weights_on_the_imbalanced_example():
    z = np.concatenate([np.tile([0.1, -0.1], 499), [5.0, -5.0]])[:, None]
    y = np.concatenate([np.zeros(998, int), np.ones(2, int)])
    with pytest.warns(TransferMetricsWarning) as caught:
        assert tm.transrate(z, y) == pytest.approx(-1.0619541282, abs=1e-9)
    cures = ("class_center=True", "class_weights='frequency'")
    assert all(cure in str(w.message) for cure, w in zip(cures, caught, strict=True))
    with pytest.warns(TransferMetricsWarning, match="two classes"):
        value = tm.transrate(z, y, class_weights="frequency")
    assert value == pytest.approx(0.8837566921, abs=1e-9)


def test_two_class_blind_spot_is_warned_about_and_cured():
    z, y = np.array([[1.0, 0], [1, 0], [-1, 0], [-1, 0]]), [0, 0, 1, 1]
    with pytest.warns(TransferMetricsWarning, match="class_center=True"):
        assert tm.transrate(z, y) == pytest.approx(0.0, abs=1e-12)
    assert tm.transrate(z, y, class_center=True) == pytest.approx(4.6052201835, abs=1e-9)


def test_one_class_scores_zero_with_a_warning():
    with pytest.warns(TransferMetricsWarning, match="one label"):
        assert tm.transrate(TOY_Z, np.zeros(60, int)) == 0.0


def test_a_single_example_of_a_class_counts_in_the_listing():
    y = TOY_Y.copy()
    y[0] = 3
    with pytest.warns(TransferMetricsWarning, match="a class of 1 examples"):
        assert tm.transrate(TOY_Z, y) == pytest.approx(listing(TOY_Z, y), rel=1e-9)


def test_empty_classes_do_not_count():
    gap = tm.ClassMoments.from_batch(TOY_Z, TOY_Y * 2, 7)
    assert tm.transrate(gap) == pytest.approx(tm.transrate(TOY_Z, TOY_Y), rel=1e-12)


def test_scale_law_and_unit_trace():
    base = tm.transrate(TOY_Z, TOY_Y, eps=1e-4)
    assert tm.transrate(10 * TOY_Z, TOY_Y, eps=1e-2) == pytest.approx(base, rel=1e-9)
    scaled = [tm.transrate(a * TOY_Z, TOY_Y, scale="trace") for a in (1.0, 1e3)]
    assert scaled[0] == pytest.approx(scaled[1], rel=1e-9)


@pytest.mark.filterwarnings("ignore:all features vary by less than eps")
def test_limits_in_eps():
    z = TOY_Z - TOY_Z.mean(axis=0)
    s = z.T @ z / 60
    parts = [rows.T @ rows / 20 for rows in (z[c::3] for c in range(3))]
    large = 0.25 * (np.mean([np.sum(p**2) for p in parts]) - np.sum(s**2))
    value = tm.transrate(TOY_Z, TOY_Y, eps=1e5, class_weights="frequency")
    assert 1e10 * value == pytest.approx(large, rel=1e-3)
    logdet = np.linalg.slogdet(s)[1] - np.mean([np.linalg.slogdet(p)[1] for p in parts])
    assert tm.transrate(TOY_Z, TOY_Y, eps=1e-12) == pytest.approx(0.5 * logdet, rel=1e-6)


def test_division_by_width_and_rank():
    wide = np.hstack([TOY_Z, TOY_Z[:, :2]])
    base = tm.transrate(wide, TOY_Y)
    assert tm.transrate(wide, TOY_Y, dim_normalize="dim") == pytest.approx(base / 10)
    assert tm.transrate(wide, TOY_Y, dim_normalize="rank") == pytest.approx(base / 8)


@pytest.mark.parametrize(
    "options",
    [
        {"eps": 0.0},
        {"eps": -1.0},
        {"class_weights": "mean"},
        {"scale": "std"},
        {"dim_normalize": "n"},
        {"preset": "paper"},
        {"epsilon": 1e-3},
    ],
)
def test_wrong_options_are_refused(options):
    with pytest.raises(InvalidInputError):
        tm.transrate(TOY_Z, TOY_Y, **options)


@pytest.mark.parametrize("preset", ["centred", "projected"])
def test_presets_need_features_that_vary(preset):
    with pytest.raises(InvalidInputError, match="vary"):
        tm.transrate(np.ones((6, 2)), np.arange(6) % 3, preset=preset)


def test_projected_pipeline_is_the_plain_one_with_deficient_rank():
    rng = np.random.default_rng(2)
    f, y = rng.standard_normal((40, 6)) @ rng.standard_normal((6, 9)), np.arange(40) % 4
    n, m = len(f), f.mean(axis=0)
    cov = f.T @ f / n - np.outer(m, m)
    means = [f[y == c].mean(axis=0) for c in range(4)]
    between = sum(np.outer(mc - m, mc - m) / 4 for mc in means)
    p = np.linalg.pinv(cov, rcond=1e-12) @ between
    spectra = [
        np.linalg.svd((f[y == c].T @ f[y == c] / 10 - np.outer(mc, mc)) @ p, compute_uv=False)
        for c, mc in enumerate(means)
    ]
    whole = np.linalg.svd(cov @ p, compute_uv=False)
    expected = tm.transrate_from_spectrum(whole, spectra, [10] * 4, rank=3)
    assert tm.transrate(f, y, preset="projected") == pytest.approx(expected, rel=1e-8)


def test_spectrum_input_is_checked():
    with pytest.raises(InvalidInputError, match="expected eigenvalues"):
        tm.transrate_from_spectrum([1.0], [1.0], [3])
    with pytest.raises(InvalidInputError, match="positive"):
        tm.transrate_from_spectrum([1.0], [[1.0]], [3], eps=0)
    with pytest.raises(InvalidInputError, match="NaN"):
        tm.transrate_from_spectrum([np.nan], [[1.0]], [3])


@pytest.mark.shared
def test_published_experiments_to_four_decimals(shared):
    found = list(experiments(shared))
    assert len(found) == 9
    for experiment in found:
        scores, accuracy = experiment.scores(own), experiment.accuracy
        expected = experiment.record["expected"]
        assert round(pearsonr(scores, accuracy)[0], 4) == expected["pearson"]
        assert round(kendalltau(scores, accuracy)[0], 4) == expected["kendall"]
        assert round(weightedtau(scores, accuracy)[0], 4) == expected["weighted_kendall"]


def test_relative_distortion_does_not_see_scale_or_dead_width():
    x, y = load_digits(return_X_y=True)
    x, y = x[:400, 5:30], y[:400]
    score = tm.transrate(x, y, eps="auto")
    assert tm.transrate(1000 * x, y, eps="auto") == pytest.approx(score, rel=1e-9)
    assert tm.transrate(np.hstack([x, np.zeros((400, 50))]), y, eps="auto") == pytest.approx(
        score, rel=1e-9
    )
    centred = x - x.mean(axis=0)
    eps = 0.1 * centred.var(axis=0).sum() / np.linalg.matrix_rank(centred)
    assert score == pytest.approx(listing(x, y, eps), rel=1e-9)


def test_relative_distortion_of_a_spectrum():
    e, e_c = np.array([0.5, 0.3, 0.2]), np.array([[0.9, 0.1, 0.0], [0.1, 0.5, 0.4]])
    score = tm.transrate_from_spectrum(7 * e, 7 * e_c, [2, 2], rank=3, eps="auto")
    eps = 0.1 / 3
    expected = np.log1p(e / eps).sum() - np.log1p(e_c / eps).sum() / 2
    assert score == pytest.approx(expected / 6, rel=1e-12)
    # Without a rank the directions are counted.
    padded = tm.transrate_from_spectrum(
        np.append(7 * e, 0.0), np.pad(7 * e_c, ((0, 0), (0, 1))), [2, 2], eps="auto"
    )
    assert padded == pytest.approx(3 * score, rel=1e-12)


def test_relative_distortion_follows_from_the_presets_too():
    x, y = load_wine(return_X_y=True)
    for preset in ("centred", "projected"):
        one = tm.transrate(x, y, preset=preset, eps="auto")
        assert one == pytest.approx(tm.transrate(50 * x, y, preset=preset, eps="auto"), rel=1e-7)
    with pytest.raises(InvalidInputError, match="auto"):
        tm.transrate(x, y, eps="best")


@pytest.mark.shared
def test_one_rule_for_the_published_experiments(shared):
    found = list(experiments(shared))
    taus = [np.mean([e.weighted_tau(rule) for e in found]) for rule in (own, fixed(1e-4), auto)]
    assert taus == pytest.approx([0.9556, 0.9373, 0.9414], abs=1e-3)
    # Nothing hangs on the tenth: a fixed eps falls below 0.65 within the same factor of a hundred.
    for c in (0.02, 0.05, 0.5, 2.0):
        assert np.mean([e.weighted_tau(share(c)) for e in found]) > 0.91
    assert np.mean([e.weighted_tau(fixed(1e-3)) for e in found]) < 0.65


@pytest.mark.shared
def test_the_page_on_eps_is_up_to_date(shared, request):
    page = Path(__file__).parents[1] / "docs" / "transrate-eps.md"
    if request.config.getoption("--write-docs"):
        page.write_text(eps_page(shared))
    assert page.read_text() == eps_page(shared)


def test_imbalance_and_two_classes_are_warned_about():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((130, 4))
    y = np.repeat([0, 1, 2], [5, 60, 65])
    with pytest.warns(TransferMetricsWarning, match="frequency"):
        tm.transrate(x, y)
    tm.transrate(x, y, class_weights="frequency")
    with pytest.warns(TransferMetricsWarning, match="class_center"):
        tm.transrate(x, y > 0, class_weights="frequency")


def test_class_term_is_what_the_total_rate_loses():
    x, y = load_wine(return_X_y=True)
    z = x - x.mean(axis=0)
    rate = 0.5 * np.linalg.slogdet(np.eye(13) + z.T @ z / (len(z) * 1e-4))[1]
    term = tm.conditional_coding_rate(x, y)
    assert rate - term == pytest.approx(tm.transrate(x, y), rel=1e-9)
    for options in ({"class_weights": "frequency"}, {"class_center": True}, {"eps": 0.1}):
        plain = {"eps": 1e-4, **options}
        rate = 0.5 * np.linalg.slogdet(np.eye(13) + z.T @ z / (len(z) * plain["eps"]))[1]
        term = tm.conditional_coding_rate(x, y, **options)
        assert rate - term == pytest.approx(tm.transrate(x, y, **options), rel=1e-9)


def test_what_nobody_named_and_does_not_rank_does_not_warn():
    x, y = np.random.default_rng(0).normal(size=(60, 8)), np.arange(60) % 2
    assert "transrate" in tm.score(x, y).metrics  # where a warning would be an error
    for named in ("transrate", ["knn", "transrate"], "tr*"):
        with pytest.warns(TransferMetricsWarning, match="two classes") as told:
            tm.score(x, y, named)
        assert len(told) == 1


def test_features_below_the_distortion_are_warned_about():
    """There the rate is the variance over eps, whatever the classes: 1e4 times less at 1e-2."""
    x, y = load_iris(return_X_y=True)
    with pytest.warns(TransferMetricsWarning, match=r"less than eps=1.0e-04; use .*eps='auto'"):
        tiny = float(tm.transrate(x * 1e-5, y))
    assert 0 < tiny < 1e-4
    assert tm.transrate(x * 1e-5, y, eps="auto") == pytest.approx(tm.transrate(x, y, eps="auto"))


@pytest.mark.parametrize("metric", ["logme", "lfc", "lda", "sfda", "h_score"])
@pytest.mark.parametrize("power", [-300, 490, 520])
def test_scales_that_no_float_holds_are_told(metric, power):
    x, y = load_iris(return_X_y=True)
    told = "multiply X by a constant"
    try:
        tm.score(x * 2.0**power, y, [metric])
    except InvalidInputError as error:
        told = str(error)
    assert "multiply X by a constant" in told

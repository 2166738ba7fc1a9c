"""LogME, H-score, LEEP, NCE, kNN and probes against independent definitions."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.covariance import LedoitWolf
from sklearn.datasets import load_diabetes, load_digits, load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import LeaveOneOut, StratifiedKFold, cross_val_predict, cross_val_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

import transfer_metrics as tm
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning, UnsupportedTaskError
from transfer_metrics.metrics.base import METRICS, get_metric
from transfer_metrics.metrics.probes import _RIDGE_PATH
from transfer_metrics.threads import running_with


def features(n=120, d=10, c=4, signal=1.0):
    y = np.arange(n) % c
    x = (
        np.random.default_rng([n, d, c]).standard_normal((n, d))
        + signal * np.random.default_rng(9).standard_normal((c, d))[y]
    )
    return x, y


# --- LogME ---------------------------------------------------------------------------------------


def log_evidence(x, t, log_alpha, log_beta):
    """log N(t; 0, X X' / alpha + I / beta), straight from the marginal distribution."""
    n = len(t)
    cov = x @ x.T / math.exp(log_alpha) + np.eye(n) / math.exp(log_beta)
    _sign, logdet = np.linalg.slogdet(cov)
    return -0.5 * (logdet + t @ np.linalg.solve(cov, t) + n * math.log(2 * math.pi))


def best_evidence(x, t):
    """The maximum over both precisions by a general-purpose optimiser."""
    result = min(
        (
            minimize(
                lambda p: -log_evidence(x, t, *p),
                start,
                method="Nelder-Mead",
                options={"xatol": 1e-8, "fatol": 1e-12, "maxiter": 4000},
            )
            for start in ([0.0, 0.0], [2.0, 2.0])
        ),
        key=lambda r: r.fun,
    )
    return -result.fun / len(t)


def test_logme_of_iris_is_the_published_value():
    assert tm.logme(*load_iris(return_X_y=True)) == pytest.approx(-0.16006022, abs=1e-6)


@pytest.mark.parametrize("shape", ["tall", "deficient", "wide"])
def test_logme_is_the_maximum_of_the_evidence(shape):
    rng = np.random.default_rng(1)
    x, y = features(50, 5)
    if shape == "deficient":
        x = np.hstack([x, x[:, :3] @ rng.standard_normal((3, 4)), np.zeros((50, 1))])
    if shape == "wide":
        x = np.hstack([x, 0.3 * rng.standard_normal((50, 70))])
    expected = np.mean([best_evidence(x, (y == c) * 1.0) for c in range(4)])
    assert tm.logme(x, y) == pytest.approx(expected, abs=1e-9)


def test_logme_regression_is_the_maximum_of_the_evidence():
    x, t = load_diabetes(return_X_y=True)
    x, t = x[:80] * 20, t[:80] / 100
    assert tm.logme(x, t) == pytest.approx(best_evidence(x, t), abs=1e-9)
    both = np.stack([t, x[:, 0] + np.sin(t)], axis=1)
    mean = np.mean([best_evidence(x, both[:, k]) for k in range(2)])
    assert tm.logme(x, both) == pytest.approx(mean, abs=1e-9)


@pytest.mark.filterwarnings("ignore:LogME")
@pytest.mark.parametrize(("n", "d"), [(60, 20), (40, 90)])
def test_logme_of_merged_batches_is_that_of_the_whole(n, d):
    x, y = features(n, d)
    x = np.hstack([x, x[:, :2]])
    whole = tm.logme(x, y)
    parts = [tm.ClassMoments.from_batch(x[a : a + 7], y[a : a + 7], 4) for a in range(0, n, 7)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged + part
    # Below N examples the factor, above it the matrix is decomposed: two routes, one number.
    assert tm.logme(merged) == pytest.approx(whole, abs=1e-9 if n > d else 1e-6)


def test_logme_does_not_change_with_the_scale_of_the_features():
    x, y = features()
    assert tm.logme(100 * x, y) == pytest.approx(tm.logme(x, y), abs=1e-10)
    assert tm.logme(1e-5 * x, y) == pytest.approx(tm.logme(x, y), abs=1e-10)


@pytest.mark.filterwarnings("ignore:LogME")
def test_logme_counts_all_directions_when_d_exceeds_n():
    # Appending zero columns changes D but not the marginal distribution of the targets.
    x, y = features(30, 60)
    padded = np.hstack([x, np.zeros((30, 500))])
    assert tm.logme(padded, y) == pytest.approx(tm.logme(x, y), abs=1e-9)


def test_logme_warns_near_interpolation():
    x, y = features(20, 200, signal=3.0)
    with pytest.warns(TransferMetricsWarning, match="almost exactly"):
        tm.logme(x, y)
    with pytest.warns(TransferMetricsWarning, match="almost exactly"):
        tm.logme(np.eye(3)[np.arange(30) % 3], np.arange(30) % 3)


def test_logme_of_useless_features_is_finite():
    x = np.random.default_rng(0).standard_normal((200, 3))
    assert math.isfinite(tm.logme(x, np.arange(200) % 2))
    with pytest.raises(InvalidInputError, match="zero"):
        tm.logme(np.zeros((4, 2)), [0, 1, 0, 1])


# --- H-score -------------------------------------------------------------------------------------


def test_h_score_of_iris_is_the_published_value():
    x, y = load_iris(return_X_y=True)
    assert tm.h_score(x, y) == pytest.approx(1.17784248, abs=1e-7)
    assert tm.h_score(x, y, shrinkage=None) == pytest.approx(1.1918988250, abs=1e-9)


@pytest.mark.parametrize(("n", "d"), [(120, 10), (40, 100)])
def test_shrunk_h_score_is_the_plain_formula(n, d):
    x, y = features(n, d)
    means = np.stack([x[y == c].mean(axis=0) for c in range(4)])[y]
    between = np.cov(means, rowvar=False)
    fit = LedoitWolf().fit(x)
    expected = (1 - fit.shrinkage_) * np.trace(np.linalg.solve(fit.covariance_, between))
    assert tm.h_score(x, y) == pytest.approx(expected, rel=1e-9)


def test_plain_h_score_saturates_and_ignores_duplicates():
    x, y = features(40, 100)
    assert tm.h_score(x, y, shrinkage=None) == pytest.approx(3.0, abs=1e-8)
    x, y = features(120, 10)
    doubled = np.hstack([x, x])
    expected = tm.h_score(x, y, shrinkage=None)
    assert tm.h_score(doubled, y, shrinkage=None) == pytest.approx(expected, abs=1e-8)
    normed = x - x.mean(axis=1, keepdims=True)
    expected = tm.h_score(normed[:, 1:], y, shrinkage=None)
    assert tm.h_score(normed, y, shrinkage=None) == pytest.approx(expected, abs=1e-8)


def test_h_score_input_is_checked():
    x, y = features()
    with pytest.raises(InvalidInputError, match="two classes"):
        tm.h_score(x, np.zeros(len(x), int))
    with pytest.raises(InvalidInputError, match="constant"):
        tm.h_score(np.ones((4, 2)), [0, 1, 0, 1])
    with pytest.raises(InvalidInputError, match="shrinkage"):
        tm.h_score(x, y, shrinkage=2.0)
    assert tm.h_score(x, y, shrinkage=1.0) == 0.0
    assert tm.h_score(x, y, shrinkage=0.0) == tm.h_score(x, y, shrinkage=None)


# --- LEEP and NCE --------------------------------------------------------------------------------


def probabilities(n=80, z=6, seed=0):
    logits = np.random.default_rng(seed).standard_normal((n, z)) * 2
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_leep_is_the_double_loop():
    p, y = probabilities(), np.arange(80) % 3
    n, z = p.shape
    joint = np.zeros((3, z))
    for i in range(n):
        joint[y[i]] += p[i] / n
    conditional = joint / joint.sum(axis=0)
    expected = np.mean([math.log(sum(conditional[y[i], k] * p[i, k] for k in range(z)))
                        for i in range(n)])  # fmt: skip
    assert tm.leep(p, y) == pytest.approx(expected, abs=1e-12)


def test_nce_is_the_conditional_entropy():
    p, y = probabilities(), np.arange(80) % 3
    z = p.argmax(axis=1)
    expected = 0.0
    for label in range(3):
        for source in np.unique(z):
            both = np.mean((y == label) & (z == source))
            if both:
                expected += both * math.log(both / np.mean(z == source))
    assert tm.nce(p, y) == pytest.approx(expected, abs=1e-12)


def test_source_classes_without_probability_are_left_out():
    p, y = probabilities(), np.arange(80) % 3
    padded = np.hstack([p, np.zeros((80, 2))])
    assert tm.leep(padded, y) == pytest.approx(tm.leep(p, y), abs=1e-12)
    assert tm.nce(padded, y) == pytest.approx(tm.nce(p, y), abs=1e-12)


def test_a_perfect_source_scores_zero_and_a_blind_one_the_label_entropy():
    y = np.arange(60) % 3
    assert tm.nce(np.eye(3)[y], y) == 0.0
    assert tm.leep(np.eye(3)[y], y) == 0.0
    blind = np.full((60, 4), 0.25)
    assert tm.leep(blind, y) == pytest.approx(-math.log(3))
    assert tm.nce(blind, y) == pytest.approx(-math.log(3))


def test_source_metrics_are_not_for_regression():
    with pytest.raises(InvalidInputError, match="continuous"):
        tm.leep(probabilities(), np.linspace(0, 1, 80))


# --- kNN -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_knn_is_scikit_learns_leave_one_out(k, distance):
    x, y = features(90, 6, signal=0.8)
    name = {"cosine": "cosine", "l2": "euclidean"}[distance]
    model = KNeighborsClassifier(k, metric=name, algorithm="brute")
    score = tm.knn(x, y, k=k, distance=distance)
    if k == 1:
        expected = cross_val_score(model, x, y, cv=LeaveOneOut()).mean()
        assert score == pytest.approx(expected, abs=1e-12)
    else:
        # Equal votes are shared or go to the nearer class here, to the lower label there.
        votes = cross_val_predict(model, x, y, cv=LeaveOneOut(), method="predict_proba")
        clear = (votes == votes.max(axis=1, keepdims=True)).sum(axis=1) == 1
        expected = (votes.argmax(axis=1) == y)[clear].sum()
        assert expected <= score * 90 + 1e-9 <= expected + (~clear).sum() + 2e-9
    assert score.stderr == pytest.approx(math.sqrt(score * (1 - score) / 90))


def test_knn_regression_is_scikit_learns():
    x, t = load_diabetes(return_X_y=True)
    model = KNeighborsRegressor(5, algorithm="brute")
    expected = r2_score(t, cross_val_predict(model, x, t, cv=LeaveOneOut()))
    assert tm.knn(x, t, distance="l2") == pytest.approx(expected, abs=1e-3)


def test_knn_with_duplicates_leaves_each_row_itself_out():
    x = np.repeat(np.eye(4), 10, axis=0)
    assert tm.knn(x, np.repeat(np.arange(4), 10), k=3) == 1.0
    # Every duplicate has another label: its copies always vote for something else.
    assert tm.knn(np.repeat(np.eye(2), 4, axis=0), np.tile(np.arange(4), 2), k=3) == 0.0
    with pytest.raises(InvalidInputError, match="rows of X are equal"):
        tm.knn(np.ones((8, 2)), np.arange(8) % 2)


def test_knn_input_is_checked():
    with pytest.raises(InvalidInputError, match="from 1 to 3"):
        tm.knn(np.eye(4), np.arange(4))
    with pytest.raises(InvalidInputError, match="cosine"):
        tm.knn(*features(), distance="l1")


# --- probes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("n", "d"), [(60, 8), (30, 50)])
def test_ridge_probe_is_brute_force_leave_one_out(n, d, threads, monkeypatch):
    monkeypatch.setattr("transfer_metrics.metrics.probes._BLOCK", 4 * d)  # many blocks of four rows
    monkeypatch.setattr("transfer_metrics.threads._SMALL_SCORE", 0)
    x, y = features(n, d, signal=0.7)
    targets = np.eye(4)[y]
    centred = x - x.mean(axis=0)
    unit = (centred**2).sum() / min(n - 1, d)
    best = None
    for strength in _RIDGE_PATH:
        predicted = cross_val_predict(
            Ridge(alpha=strength * unit, solver="cholesky"), x, targets, cv=LeaveOneOut()
        )
        press = ((targets - predicted) ** 2).sum()
        if best is None or press < best[0]:
            best = (press, (predicted.argmax(axis=1) == y).mean())
    with running_with(threads):
        assert tm.ridge_probe(x, y) == pytest.approx(best[1], abs=1e-12)


def _left_out(x, t, penalty):
    """The error of each example by a ridge regression on the others."""
    errors = []
    for i in range(len(x)):
        others, y = np.delete(x, i, axis=0), np.delete(t, i)
        z = others - others.mean(axis=0)
        w = np.linalg.solve(z.T @ z + penalty * np.eye(x.shape[1]), z.T @ (y - y.mean()))
        errors.append(t[i] - y.mean() - (x[i] - others.mean(axis=0)) @ w)
    return np.array(errors)


@pytest.mark.parametrize(("n", "d"), [(80, 6), (40, 50), (60, 30)])
def test_ridge_probe_finds_the_best_strength_where_cross_validation_by_traces_does_not(n, d):
    misled = False
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x = rng.standard_t(1.3, (n, d)) + 10.0  # of a few examples that decide the fit
        t = x[:, 0] + rng.standard_t(2.0, n)
        z = x - x.mean(axis=0)
        press, traces = [], []
        for penalty in np.array(_RIDGE_PATH) * (z**2).sum() / min(n - 1, d):
            press.append((_left_out(x, t, penalty) ** 2).sum())
            hat = z @ np.linalg.inv(z.T @ z + penalty * np.eye(d)) @ z.T + 1.0 / n
            traces.append(((t - hat @ t) ** 2).sum() / (n - np.trace(hat)) ** 2)
        misled |= np.argmin(press) != np.argmin(traces)
        best = 1.0 - min(press) / ((t - t.mean()) ** 2).sum()
        assert tm.ridge_probe(x, t) == pytest.approx(best, abs=1e-7)
    assert misled


def test_ridge_probe_weighs_targets_of_any_size_alike():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 30))
    targets = np.stack([x @ rng.standard_normal(30), rng.standard_normal(40)], axis=1)
    r2 = []
    for strength in _RIDGE_PATH:
        alpha = strength * ((x - x.mean(0)) ** 2).sum() / 30
        predicted = cross_val_predict(Ridge(alpha=alpha), x, targets, cv=LeaveOneOut())
        r2.append(r2_score(targets, predicted))
    for scales in ([1, 1], [1, 1e6], [1e6, 1], [1e-9, 1]):
        assert tm.ridge_probe(x, targets * scales) == pytest.approx(max(r2), abs=1e-9)


def test_ridge_probe_takes_a_strength_in_all_its_digits():
    """A tenth is none of float32, which loses the eighth of them."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 30))
    t = x @ rng.standard_normal(30) + rng.standard_normal(40)
    alpha = 0.1 * ((x - x.mean(0)) ** 2).sum() / 30
    predicted = cross_val_predict(Ridge(alpha=alpha), x, t, cv=LeaveOneOut())
    score = tm.ridge_probe(x, t, strengths=[0.1])
    assert score == pytest.approx(r2_score(t, predicted), abs=1e-12)


def test_h_score_of_one_feature_is_between_over_total():
    x, y = load_iris(return_X_y=True)
    for column in x.T:
        between = sum(50 * (column[y == c].mean() - column.mean()) ** 2 for c in range(3))
        total = ((column - column.mean()) ** 2).sum()
        assert LedoitWolf().fit(column[:, None]).shrinkage_ == 0
        assert tm.h_score(column[:, None], y) == pytest.approx(between / total)
        assert tm.score(column[:, None], y, "h_score", intervals=True).records[0]["stderr"] > 0


def test_labels_that_no_example_has_do_not_count_in_logme():
    rng = np.random.default_rng(0)
    x, none = rng.standard_normal((50, 4)), np.zeros((50, 1), int)
    labels = (x[:, :2] + rng.standard_normal((50, 2)) > 0) * 1
    assert tm.logme(x, np.hstack([labels, none])) == pytest.approx(tm.logme(x, labels))
    table = tm.score(x, np.hstack([none, labels]), "logme", intervals=True)
    assert table.records[0]["value"] == pytest.approx(tm.logme(x, labels))
    with pytest.raises(InvalidInputError, match="all targets are zero"):
        METRICS["logme"](tm.TargetMoments.from_batch(x, none))


def test_ridge_probe_of_a_negligible_penalty_is_least_squares():
    x, t = load_diabetes(return_X_y=True)
    predicted = cross_val_predict(LinearRegression(), x, t, cv=LeaveOneOut())
    score = tm.ridge_probe(x, t, strengths=[1e-14])
    assert score == pytest.approx(r2_score(t, predicted), abs=1e-8)


def test_linear_probe_is_scikit_learns_cross_validation():
    x, y = load_digits(return_X_y=True)
    x, y = x[:300], y[:300]
    z = x - x.mean(axis=0)
    order = np.argsort((z**2).sum(axis=1))
    scores = cross_val_score(
        LogisticRegression(C=1.0, max_iter=200), (z / z.std())[order], y[order],
        cv=StratifiedKFold(5, shuffle=True, random_state=0),
    )  # fmt: skip
    score = tm.linear_probe(x, y, C=[1.0])
    assert score == pytest.approx(scores.mean(), abs=1e-9)
    assert score.stderr == pytest.approx(scores.std(ddof=1) / math.sqrt(5), abs=1e-9)


@pytest.mark.parametrize("wrong", [[], [0.0], [1.0, -1.0], [math.nan]])
def test_strengths_of_probes_are_positive(wrong):
    x, y = load_iris(return_X_y=True)
    for probe, option in ((tm.ridge_probe, "strengths"), (tm.linear_probe, "C")):
        with pytest.raises(InvalidInputError, match="positive"):
            probe(x, y, **{option: wrong})


def test_probe_input_is_checked():
    x, y = features()
    with pytest.raises(InvalidInputError, match="two classes"):
        tm.ridge_probe(x, np.zeros(len(x), int))
    with pytest.raises(InvalidInputError, match="constant"):
        tm.ridge_probe(np.ones((6, 2)), np.arange(6) % 2)
    with pytest.raises(InvalidInputError, match="positive"):
        tm.ridge_probe(x, y, strengths=[0.0])
    y = y.copy()
    y[0] = 9
    with pytest.raises(InvalidInputError, match="two examples"):
        tm.linear_probe(x, y)
    with pytest.raises(InvalidInputError, match="constant"):
        tm.ridge_probe(x, np.full(len(x), 0.5))


# --- the registry --------------------------------------------------------------------------------


def test_a_metric_in_ten_lines_works_everywhere():
    @tm.register_metric("fisher", reference="Fisher 1936")
    def fisher(moments):
        """Between-class over within-class variance."""
        return float(moments.between_rows.square().sum()) / moments.within.trace()

    try:
        x, y = features()
        means = np.stack([x[y == c].mean(axis=0) for c in range(4)])[y]
        expected = ((means - x.mean(axis=0)) ** 2).sum() / ((x - means) ** 2).sum()
        assert fisher(x, y) == pytest.approx(expected)
        assert "fisher" in tm.list_metrics()
        table = tm.score(x, y, metrics=["fisher", fisher.metric.fn])
        assert table.records[0]["value"] == pytest.approx(expected)
        with pytest.raises(InvalidInputError, match="registered already"):
            tm.register_metric("fisher")(fisher)
    finally:
        from transfer_metrics.metrics.base import METRICS

        METRICS.unregister("fisher")


@pytest.mark.parametrize("name", tm.list_metrics())
def test_options_that_are_one_of_several_texts_are_known_before_any_work(name):
    signature = inspect.signature(get_metric(name).fn)
    for option in signature.parameters.values():
        if "Literal" in str(option.annotation):
            with pytest.raises(InvalidInputError, match=rf"{option.name}='none of them'; give "):
                tm.rank_models(
                    "no-such-model", "no-such-task", f"{name}({option.name}='none of them')"
                )
        elif str(option.annotation).startswith("str"):
            raise AssertionError(f"{name} does not say which texts {option.name} may be")


def test_names_with_options_and_mistakes():
    x, y = features()
    table = tm.score(x, y, "transrate(eps=1e-2,class_weights=frequency),knn(k=1)")
    assert table.metrics == ["transrate(class_weights=frequency,eps=0.01)", "knn(k=1)"]
    assert table.records[0]["value"] == tm.transrate(x, y, eps=1e-2, class_weights="frequency")
    with pytest.raises(tm.UnknownNameError, match="did you mean 'transrate'"):
        tm.score(x, y, "transrat")
    for wrong in ("knn(k)", "knn(1)", "knn(k=1", "knn(k=__import__('os'))", "knn(n=3)"):
        with pytest.raises(InvalidInputError):
            tm.get_metric(wrong)


def test_a_metric_for_classes_refuses_regression():
    with pytest.raises(UnsupportedTaskError, match="metrics for regression"):
        tm.score(np.ones((4, 2)), np.linspace(0, 1, 4), ["h_score"])


def test_a_result_that_is_no_number_is_an_error():
    metric = tm.get_metric(lambda moments: float("nan"))
    with pytest.raises(InvalidInputError, match="nan"):
        metric(tm.ClassMoments.from_batch(*features()))


def test_score_runs_everything_that_applies():
    x, y = features()
    table = tm.score(x, y, "*")
    of_features = {n for n in METRICS if METRICS[n].requires != "source"} - {"svd_regression"}
    assert set(table.metrics) == of_features
    assert not table.failures
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    both = tm.score(x, y, "*", source=p)
    assert set(both.metrics) == set(METRICS) - {"svd_regression"}
    values = {r["metric"]: r["value"] for r in both.records}
    assert values["leep"] == float(tm.leep(p, y))
    assert values["gbc"] == pytest.approx(float(tm.gbc(x, y)), rel=1e-9)
    with pytest.raises(InvalidInputError, match="source="):
        tm.score(x, y, ["leep", "knn"])


def test_regression_and_several_labels_run_what_is_defined_for_them():
    x, t = load_diabetes(return_X_y=True)
    table = tm.score(x, t, "*")
    assert set(table.metrics) == {n for n in METRICS if "regression" in METRICS[n].tasks}
    values = {r["metric"]: r["value"] for r in table.records}
    assert values["transrate"] == pytest.approx(float(tm.transrate(x, tm.quantile_bins(t))))
    labels = np.stack([t > 100, t > 200], axis=1).astype(int)
    scores = {r["metric"]: r["value"] for r in tm.score(x, labels, "*").records}
    assert scores.keys() == {"knn", "logme", "ridge_probe"}
    unused = np.hstack([labels, np.zeros((len(labels), 1), int)])  # by any example
    for name in ("knn", "logme"):
        metric = getattr(tm, name)
        each = [float(metric(x, column, kind="regression")) for column in labels.T]
        assert scores[name] == pytest.approx(np.mean(each), rel=1e-9)
    for name in ("knn", "ridge_probe"):
        of_all = float(getattr(tm, name)(x, unused, kind="multilabel"))
        assert of_all == pytest.approx(scores[name], rel=1e-9)
    with pytest.raises(tm.UnsupportedTaskError, match="multilabel"):
        tm.score(x, labels, "h_score")


def test_a_metric_that_fails_does_not_take_the_others_along():
    x, y = features()
    y = np.where(np.arange(len(y)) == 0, 9, y)
    with pytest.warns(tm.TransferMetricsWarning, match="linear_probe failed"):
        table = tm.score(x, y, ["linear_probe", "logme"])
    assert [r["metric"] for r in table.failures] == ["linear_probe"]
    with pytest.raises(InvalidInputError, match="two examples"):
        tm.score(x, y, "linear_probe")


def test_combinations_need_candidates():
    x, y = features()
    with pytest.raises(InvalidInputError, match="energy, lda"):
        tm.score(x, y, "etran")


def test_quantile_bins_are_evenly_filled_and_keep_few_values():
    t = np.random.default_rng(0).exponential(size=1000)
    assert np.bincount(tm.quantile_bins(t, 10)).tolist() == [100] * 10
    assert tm.quantile_bins([5.0, 1.0, 5.0, 2.0], 10).tolist() == [2, 0, 2, 1]
    # Nine in ten are zero: the empty bins are merged.
    assert set(tm.quantile_bins(np.r_[np.zeros(90), np.arange(1.0, 21.0)], 5)) == {0, 1}
    with pytest.raises(InvalidInputError, match="at least 2"):
        tm.quantile_bins(t, 1)
    with pytest.raises(InvalidInputError, match="one target"):
        tm.quantile_bins(np.ones((4, 2)))


def test_a_warning_from_inside_a_score_is_where_the_user_is():
    x = np.random.default_rng(0).normal(size=(60, 30)) * np.r_[1e12, np.full(29, 1e-4)]
    with pytest.warns(TransferMetricsWarning) as caught:
        tm.score(x, np.arange(60) % 3, metrics="logme")
    assert any("vary so much" in str(warning.message) for warning in caught)
    assert {warning.filename for warning in caught} == {__file__}


def test_no_rows_are_an_error_that_says_so():
    with pytest.raises(InvalidInputError, match="no examples"):
        tm.score(np.zeros((0, 3)), np.zeros(0, int))


def test_h_score_takes_the_divisors_that_its_docstring_says():
    x, y = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30) % 3
    centred = x - x.mean(axis=0)
    means = np.stack([centred[y == c].mean(axis=0) for c in range(3)])[y]
    # Published: the covariance of the features with the divisor n, that of the means with n - 1.
    by_hand = np.trace(np.linalg.pinv(centred.T @ centred / 30) @ (means.T @ means / 29))
    assert tm.h_score(x, y, shrinkage=1e-12) == pytest.approx(by_hand, rel=1e-9)
    assert tm.h_score(x, y, shrinkage=None) == pytest.approx(by_hand * 29 / 30, rel=1e-12)


@pytest.mark.parametrize("metric", ["h_score", "logme", "label_rate", "lfc", "ridge_probe", "parc"])
@pytest.mark.parametrize("power", [-1000, -700, 600, 1000])
def test_squares_that_float64_does_not_hold_are_refused_for_that(metric, power):
    x, y = np.random.default_rng(0).normal(size=(60, 6)), np.arange(60) % 3
    with pytest.raises(InvalidInputError, match=r"so (small|large) .* multiply X by a constant"):
        getattr(tm, metric)(np.ldexp(x, power), y)
    assert np.isfinite(getattr(tm, metric)(np.ldexp(x, -70), y))


@pytest.mark.parametrize("power", [-480, 505])
def test_h_score_refuses_fourth_powers_that_float64_does_not_hold(power):
    x, y = np.random.default_rng(0).normal(size=(60, 6)), np.arange(60) % 3
    with pytest.raises(InvalidInputError, match="fourth power"):
        tm.h_score(np.ldexp(x, power), y)


@pytest.mark.parametrize("power", [-1000, -700, 600, 1000])
def test_linear_probe_is_the_same_at_any_scale(power):
    x, y = load_iris(return_X_y=True)
    assert tm.linear_probe(np.ldexp(x, power), y) == tm.linear_probe(x, y)

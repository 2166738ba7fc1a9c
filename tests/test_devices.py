"""What a GPU refuses does not happen, as far as a machine without one can tell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import transfer_metrics as tm
from tests.elsewhere import DEVICE, Elsewhere, elsewhere, moved
from transfer_metrics.metrics.base import METRICS

N, D, C = 60, 5, 3
RNG = np.random.default_rng(0)
Y = np.arange(N) % C
X = RNG.standard_normal((N, D)) + RNG.standard_normal((C, D))[Y]
P = np.exp(X) / np.exp(X).sum(axis=1, keepdims=True)
FEATURES = {
    "as they are": X,
    "fewer examples than features": np.hstack([X, RNG.standard_normal((N, 80))]),
    "one much larger": X * np.where(np.arange(D) == 2, 1e4, 1),
}
TARGETS = {"one": np.sin(X[:, 0]), "two": X[:, :2] ** 2, "labels": (X[:, :3] > 0) * 1}


def there(array):
    return Elsewhere(torch.from_numpy(np.ascontiguousarray(array)))


def test_what_a_gpu_refuses_is_refused_elsewhere():
    x = there(X)
    assert x.device == DEVICE
    assert x.is_cuda
    for wrong in (
        lambda: x + torch.ones(D),
        lambda: torch.cat([x, torch.ones(1, D)]),
        lambda: x.numpy(),
        lambda: np.asarray(x),
        lambda: torch.randperm(3, device=DEVICE, generator=torch.Generator()),
    ):
        with elsewhere(), pytest.raises((RuntimeError, TypeError)):
            wrong()
    with elsewhere():
        assert isinstance(torch.zeros(3, device=DEVICE) + 1, Elsewhere)
        assert isinstance(x[torch.tensor([0, 1])], Elsewhere)
        assert not isinstance((x * 2).cpu(), Elsewhere)


def same(name, features, labels):
    metric = getattr(tm, name)
    expected = metric(features, labels)
    for given in (labels, there(labels)):
        with elsewhere():
            assert metric(there(features), given) == pytest.approx(expected, rel=1e-6, abs=1e-10)


@pytest.mark.filterwarnings("ignore::transfer_metrics.TransferMetricsWarning")
@pytest.mark.parametrize("case", FEATURES)
@pytest.mark.parametrize("name", [n for n in METRICS if "classification" in METRICS[n].tasks])
def test_metrics_of_classes(name, case):
    same(name, P if METRICS[name].requires == "source" else FEATURES[case], Y)


@pytest.mark.filterwarnings("ignore::transfer_metrics.TransferMetricsWarning")
@pytest.mark.parametrize("case", TARGETS)
@pytest.mark.parametrize("name", [n for n in METRICS if "regression" in METRICS[n].tasks])
def test_metrics_of_targets(name, case):
    kind = "multilabel" if case == "labels" else "regression"
    if kind in METRICS[name].tasks and not (METRICS[name].bins and case == "two"):
        same(name, X, TARGETS[case])


@pytest.mark.filterwarnings("ignore::transfer_metrics.TransferMetricsWarning")
@pytest.mark.parametrize("case", [*FEATURES, *TARGETS])
@pytest.mark.parametrize("metric", [n for n in METRICS if METRICS[n].derivative])
@pytest.mark.parametrize("intervals", [True, "bootstrap"])
def test_intervals(metric, case, intervals):
    of_classes, source = case in FEATURES, METRICS[metric].requires == "source"
    kind = "classification" if of_classes else "multilabel" if case == "labels" else "regression"
    if kind not in METRICS[metric].tasks or (METRICS[metric].bins and case == "two"):
        return
    x, y = (FEATURES[case], Y) if of_classes else (X, TARGETS[case])
    x = P if source else x
    expected = tm.score(x, y, metric, intervals=intervals).records[0]
    with elsewhere():
        found = tm.score(there(x), there(y), metric, intervals=intervals).records[0]
    assert found["value"] == pytest.approx(expected["value"])
    assert (found["stderr"] or 0) == pytest.approx(expected["stderr"] or 0, rel=1e-4)


@pytest.mark.parametrize("case", ["one", "two"])
def test_bounded_samples(case):
    with elsewhere():
        part = tm.FeatureSample.from_batch(
            there(X), there(TARGETS[case]), limit=20, regression=True
        )
        found = (part + part).ordered
    expected = tm.FeatureSample.from_batch(X, TARGETS[case], limit=20, regression=True)
    np.testing.assert_array_equal(found.x[::2].cpu(), expected.ordered.x[: len(found.x[::2])])


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.steps, self.head = nn.GRU(3, 8, batch_first=True), nn.Linear(8, C)

    def forward(self, x):
        return self.head(self.steps(x)[0][:, -1])


NETWORKS = {
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, C),
        ),
        RNG.standard_normal((N, 3, 9, 9)).astype("float32"),
    ),
    "fully connected": (
        lambda: nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, C)),
        RNG.standard_normal((N, 12)).astype("float32"),
    ),
    "recurrent": (Recurrent, RNG.standard_normal((N, 5, 3)).astype("float32")),
}  # fmt: skip


@pytest.fixture
def there_is_one(monkeypatch):
    """Random numbers of the device are those of the CPU, and modules move by new parameters."""
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda _=None: torch.get_rng_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda _state, _device=None: None)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    yield
    torch.__future__.set_overwrite_module_params_on_conversion(False)


def both(make, use):
    """What is found on the CPU, and elsewhere."""
    found = []
    for place in (lambda module: module, moved):
        torch.manual_seed(0)
        with elsewhere():
            found.append(use(place(make())))
    return found


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
@pytest.mark.filterwarnings("ignore:PyTorch was compiled without cuDNN")
@pytest.mark.usefixtures("there_is_one")
@pytest.mark.parametrize("pool", ["avg", "max", "grid:64", "flatten"])
@pytest.mark.parametrize("name", NETWORKS)
def test_features(name, pool):
    make, x = NETWORKS[name]
    how = {"layers": "*", "pool": pool, "progress": False}
    here, away = both(make, lambda network: tm.extract(network, (x, Y), **how))
    assert away.names == here.names
    for layer in here.names:
        np.testing.assert_allclose(away[layer], here[layer], atol=1e-4)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
@pytest.mark.filterwarnings("ignore:PyTorch was compiled without cuDNN")
@pytest.mark.usefixtures("there_is_one")
def test_a_ranking():
    make, x = NETWORKS["fully connected"]
    how = {"metrics": ["logme", "leep", "knn"], "cache": "never", "progress": False}
    here, away = both(make, lambda network: tm.rank_models([network], (x, Y), **how))
    for one, other in zip(here.records, away.records, strict=True):
        assert other["value"] == pytest.approx(one["value"], rel=1e-4)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
@pytest.mark.filterwarnings("ignore:PyTorch was compiled without cuDNN")
@pytest.mark.usefixtures("there_is_one")
@pytest.mark.parametrize(
    "head",
    [
        lambda: tm.LinearProbe(),
        lambda: tm.Head2Toe(progress=False),
        lambda: tm.FineTune(lr=[1e-2], epochs=2, progress=False),
        lambda: tm.LPFT(lr=[1e-2], epochs=2, progress=False),
    ],
)
def test_heads(head):
    make, x = NETWORKS["fully connected"]
    task = tm.load_task((x, Y))
    here, away = both(make, lambda network: head().fit(network, task).predict_proba(x))
    np.testing.assert_allclose(away, here, atol=1e-3)

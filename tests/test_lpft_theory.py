"""The theory of LP-FT (Kumar et al. 2022), run through the training loop that networks use.

The model is f(x) = vᵀBx with squared loss, full batches, no momentum and a constant rate, so that
the loop is plain gradient descent.
"""

from __future__ import annotations

import copy
import functools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from transfer_metrics.heads.preprocessed import Inputs
from transfer_metrics.heads.train_settings import TrainSettings
from transfer_metrics.heads.training import Training


class TwoLayers(nn.Module):
    """f(x) = vᵀBx."""

    def __init__(self, v: Tensor, B: Tensor) -> None:
        super().__init__()
        self.v, self.B = nn.Parameter(v.clone()), nn.Parameter(B.clone())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.B.T @ self.v

    @property
    def w(self) -> Tensor:
        return (self.B.T @ self.v).detach()


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def squared(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().sum()


def descend(model, X, Y, rate, steps, watch=lambda model: None):
    """Gradient descent by the loop; what ``watch`` says before every step, and at the end."""
    seen = []

    def loss(output, target):
        seen.append(watch(model))
        return squared(output, target)

    settings = TrainSettings(
        lr=rate, epochs=steps, batch_size=len(X), momentum=0.0, schedule="constant"
    )
    begun = Training(model, settings, Inputs.of_tensor(X), Y, loss=loss)
    begun.advance(steps)
    begun.finish()
    return [*seen, watch(model)]


# theta, v0, and the limits v, B1 and the loss out of distribution, with perfect features
TOY = [
    (math.pi / 4, 0.0, 0.707107, 1.000000, 0.042893),
    (math.pi / 4, -1.0, -1.0, -0.707107, 2.000000),
    (math.pi / 4, 0.5, 0.770111, 0.918189, 0.026425),
    (math.pi / 4, 1.0, 1.0, 0.707107, 0.0),
    (math.pi / 4, 2.0, 1.907212, 0.370754, 0.411517),
    (math.pi / 6, 0.0, 0.754141, 1.148359, 0.015112),
    (math.pi / 3, 0.0, 0.624811, 0.800243, 0.105575),
    (math.pi / 3, 0.5, 0.707107, 0.707107, 0.064340),
]


class TestPlane:
    """d = 2, k = 1, n = 1: every limit is known."""

    @pytest.mark.parametrize(("theta", "v0", "v", "b1", "ood"), TOY)
    def test_limits(self, theta, v0, v, b1, ood):
        y = math.cos(theta)  # w* = B0, so that the target on x = e1 is cos θ
        model = TwoLayers(
            double([v0]),
            double([[math.cos(theta), math.sin(theta)]]),
        )
        rate = 2e-3 if v0 < 0 else 5e-3  # shorter steps where the way is longer
        descend(model, double([[1.0, 0.0]]), double([y]), rate, round(4 / rate))
        assert model.v.item() == pytest.approx(v, abs=1e-3)
        assert model.B[0, 0].item() == pytest.approx(b1, abs=1e-3)
        assert model.B[0, 1].item() == math.sin(theta)  # frozen, to the last bit
        star = double([math.cos(theta), math.sin(theta)])
        assert float((star - model.w).square().sum()) == pytest.approx(ood, abs=2e-3)

    def test_the_table_is_the_closed_form(self):
        for theta, v0, v, b1, ood in TOY:
            y, c = math.cos(theta), v0**2 - math.cos(theta) ** 2
            size = math.sqrt((c + math.sqrt(c * c + 4 * y * y)) / 2)
            limit = math.copysign(size, v0 + math.cos(theta))
            assert limit == pytest.approx(v, abs=1e-6)
            assert y / limit == pytest.approx(b1, abs=1e-6)
            assert math.sin(theta) ** 2 * (limit - 1) ** 2 == pytest.approx(ood, abs=1e-6)

    def test_the_saddle(self):
        theta = math.pi / 4
        B = double([[math.cos(theta), math.sin(theta)]])
        model = TwoLayers(double([-math.cos(theta)]), B)
        descend(model, double([[1.0, 0.0]]), double([math.cos(theta)]), 1e-2, 450)
        assert abs(model.v.item()) < 0.05
        assert abs(model.B[0, 0].item()) < 0.05


class Instance:
    """A random one: d = 40, k = 4, n = 20; ``noise`` perturbs the pretrained features."""

    d, k, n = 40, 4, 20

    def __init__(self, seed: int, noise: float) -> None:
        random = np.random.default_rng(seed)
        self.X = random.normal(size=(self.n, self.d))
        self.B_star = orthonormal(random.normal(size=(self.k, self.d)))
        self.v_star = random.normal(size=self.k) / math.sqrt(self.k)
        self.v0 = random.normal(size=self.k)
        other = noise * random.normal(size=(self.k, self.d))
        self.B0 = orthonormal(self.B_star + other) if noise else self.B_star
        self.w = self.B_star.T @ self.v_star
        self.Y = self.X @ self.w
        self.basis = np.linalg.qr(self.X.T)[0]  # (d, n), of the rows of X
        self.rate = 0.2 / np.linalg.norm(self.X, 2) ** 2

    def model(self, v):
        return TwoLayers(torch.from_numpy(v), torch.from_numpy(self.B0))

    def probe(self):
        """The head that solves the least squares problem on the features."""
        return self.model(np.linalg.lstsq(self.X @ self.B0.T, self.Y, rcond=None)[0])

    def run(self, model, steps, watch=lambda model: None):
        X, Y = torch.from_numpy(self.X), torch.from_numpy(self.Y)
        return descend(model, X, Y, self.rate, steps, watch)

    def ood(self, model):
        return float(np.sum((self.w - model.w.numpy()) ** 2))

    def id(self, model):
        return float(np.sum((self.basis.T @ (self.w - model.w.numpy())) ** 2))


def orthonormal(rows):
    u, _, vt = np.linalg.svd(rows, full_matrices=False)
    return u @ vt


def closest(B0, B_star):
    """min over orthogonal U of ‖B0 - U B*‖₂."""
    u, _, vt = np.linalg.svd(B0 @ B_star.T)
    return np.linalg.norm(B0 - u @ vt @ B_star, 2)


@functools.cache
def solved(seed: int, noise: float):
    """Linear probing, fine-tuning from a random head, and LP-FT, on one instance."""
    case = Instance(seed, noise)
    ft, probe = case.model(case.v0), case.probe()
    lpft = copy.deepcopy(probe)
    path = case.run(ft, 500, case.ood)
    lp_path = case.run(lpft, 500, case.ood)
    return case, probe, ft, lpft, path, lp_path


PERFECT, NOISY = [(0, 0.0)], [(0, 0.03), (2, 0.03)]
every = pytest.mark.parametrize("which", PERFECT + NOISY)
perfect = pytest.mark.parametrize("which", PERFECT)
noisy = pytest.mark.parametrize("which", NOISY)


class TestRandomInstances:
    def test_gradients_are_those_of_the_paper_corrected(self):
        """∇v = 2BXᵀr and ∇B = 2v(Xᵀr)ᵀ; the text's equation 3.6 has a slip."""
        case = Instance(0, 0.3)
        model = case.model(case.v0)
        case.run(model, 1)
        r = case.X @ case.B0.T @ case.v0 - case.Y
        v = case.v0 - case.rate * 2 * case.B0 @ case.X.T @ r
        B = case.B0 - case.rate * 2 * np.outer(case.v0, case.X.T @ r)
        np.testing.assert_allclose(model.v.detach().numpy(), v, rtol=1e-12)
        np.testing.assert_allclose(model.B.detach().numpy(), B, rtol=1e-12, atol=1e-15)

    @every
    def test_p1_features_change_only_where_there_are_data(self, which):
        case, _, ft, lpft, _, _ = solved(*which)
        off = np.eye(case.d) - case.basis @ case.basis.T
        for model in (ft, lpft):
            change = model.B.detach().numpy() - case.B0
            assert np.abs(change @ off).max() < 1e-13
        assert np.abs(ft.B.detach().numpy() - case.B0).max() > 0.01

    def test_p2_balancedness_drifts_with_the_step_only(self):
        case, drift = Instance(3, 0.03), []
        start = np.outer(case.v0, case.v0) - case.B0 @ case.B0.T
        for parts in (1, 2, 4):
            model = case.model(case.v0)
            fine = copy.copy(case)
            fine.rate = case.rate / (8 * parts)
            fine.run(model, 150 * parts)
            v, B = model.v.detach().numpy(), model.B.detach().numpy()
            drift.append(np.abs(np.outer(v, v) - B @ B.T - start).max())
        assert drift[0] < 0.05
        assert 1.7 < drift[0] / drift[1] < 2.3
        assert 1.7 < drift[1] / drift[2] < 2.3

    @perfect
    def test_p3_with_perfect_features_only_fine_tuning_goes_wrong(self, which):
        case, probe, _, lpft, path, lp_path = solved(*which)
        assert case.ood(probe) < 1e-20
        assert max(lp_path) < 1e-20
        assert np.abs(lpft.B.detach().numpy() - case.B0).max() < 1e-12
        assert min(path) > 0.05

    @noisy
    def test_p4_converged_fine_tuning_fits_the_data_better_than_probing(self, which):
        case, probe, ft, lpft, _, _ = solved(*which)
        assert case.id(ft) < 0.01 * case.id(probe)
        assert case.id(lpft) < 0.01 * case.id(probe)

    @every
    def test_the_order_of_losses_out_of_distribution(self, which):
        case, probe, ft, lpft, path, _ = solved(*which)
        assert case.ood(lpft) <= case.ood(probe) + 1e-20
        assert case.ood(probe) < 0.5 * case.ood(ft)
        assert min(path) > case.ood(probe)  # at no step is fine-tuning better
        assert case.id(ft) < 1e-6

    @every
    def test_the_lower_bound_of_theorem_3_1_holds_at_every_step(self, which):
        case, _, _, _, path, _ = solved(*which)
        off = np.linalg.svd(np.eye(case.d) - case.basis @ case.basis.T)[0][:, : case.d - case.n]
        rows = np.linalg.qr(case.B0.T)[0]
        cosine = np.linalg.svd(rows.T @ off)[1][case.k - 1]
        vv = case.v_star @ case.v_star
        # v* counts in the coordinates of B0, which are those of B* up to a rotation.
        u, _, vt = np.linalg.svd(case.B0 @ case.B_star.T)
        phi2 = abs((case.v0 @ (u @ vt) @ case.v_star) ** 2 - vv**2)
        size = np.linalg.norm(case.w)
        bound = cosine / math.sqrt(case.k) * min(math.sqrt(phi2), phi2 / size) / (1 + size) ** 2
        bound -= closest(case.B0, case.B_star)
        assert cosine > 0.1
        assert math.sqrt(min(path)) >= bound

    @every
    def test_less_distortion_in_lp_ft(self, which):
        case, _, ft, lpft, _, _ = solved(*which)
        far, near = (np.linalg.norm(m.B.detach().numpy() - case.B0, 2) for m in (ft, lpft))
        assert near < 0.7 * far

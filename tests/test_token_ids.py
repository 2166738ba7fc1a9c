"""Arrays of whole numbers are rows of the embedding that a network begins with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import transfer_metrics as tm


class Positions(nn.Module):
    """Its token embedding comes after a bare parameter of the network."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(torch.randn(7, 6))
        self.words, self.mix = nn.Embedding(50, 6), nn.Linear(6, 5)

    def forward(self, ids):
        return self.mix((self.words(ids) + self.positions).mean(dim=1))


NETWORKS = {
    "embedding": lambda: nn.Sequential(nn.Embedding(50, 6), nn.Flatten(), nn.Linear(42, 5)),
    "bag": lambda: nn.Sequential(nn.EmbeddingBag(50, 6), nn.Linear(6, 5)),
    "positions": Positions,
}


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("kind", NETWORKS)
def test_token_ids_in_arrays_are_looked_up(kind, saved, tmp_path):
    torch.manual_seed(0)
    network = NETWORKS[kind]().eval()
    ids = np.random.default_rng(0).integers(0, 50, (40, 7))
    y = np.arange(40) % 2
    if saved:
        np.savez(tmp_path / "ids.npz", x=ids, y=y)
    store = tm.extract(network, f"npz:{tmp_path}/ids.npz" if saved else (ids, y), layers="*")
    last = [layer.name for layer in store.layers if ":input" not in layer.name][-1]
    with torch.no_grad():
        expected = network(torch.from_numpy(ids))
    np.testing.assert_allclose(store[last], expected, rtol=1e-5, atol=1e-6)
    assert len(tm.rank_models(network, (ids, y), metrics="knn").failures) == 0


def test_whole_numbers_given_to_another_network_stay_floating():
    pixels = np.random.default_rng(0).integers(0, 9, (40, 7))
    network = nn.Sequential(nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 2))
    assert tm.load_model(network).batch(list(pixels)).dtype == torch.float32

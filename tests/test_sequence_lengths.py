"""Texts longer than a network takes, and layers with other numbers of positions than the mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import transfer_metrics as tm
from tests import sequence_families, text_models, written
from tests.sequence_families import FAMILIES, LEAKING
from tests.text_models import TEXTS
from transfer_metrics.errors import ExtractionError
from transfer_metrics.features.hooks import LayerTaps
from transfer_metrics.features.layers import list_layers
from transfer_metrics.features.pooling import pool_for, resolve_pool
from transfer_metrics.features.trace import first_tensor
from transfer_metrics.sources.models.tokens import TextBatch

transformers = pytest.importorskip("transformers")

LABELS = [0, 1, 0, 1, 1, 0]
POOLS = {
    "mean": lambda x: x.mean(0),
    "max": lambda x: x.amax(0),
    "cls": lambda x: x[0],
    "last": lambda x: x[-1],
}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory):
    """Folder of a family's checkpoint, written when it is first asked for."""
    root = tmp_path_factory.mktemp("sequences")
    return written.once(root, sequence_families.save)


def alone(folder: Path, layers: Any, text: str) -> dict[str, torch.Tensor]:
    """(T, D) of each layer by transformers and hooks of our own, for a text that nothing pads."""
    tokenizer, network = text_models.reference(folder)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    seen: dict[str, list[torch.Tensor]] = {}
    handles = []
    for path, module in network.named_modules():
        keep = seen.setdefault(path, [])
        handles.append(module.register_forward_hook(lambda _m, _i, o, keep=keep: keep.append(o)))
    with torch.no_grad():
        network(ids, attention_mask=torch.ones_like(ids))
    for handle in handles:
        handle.remove()
    found = {}
    for layer in layers:
        path, _, call = layer.name.partition(":")
        output = first_tensor(seen[path][int(call or 0)])
        states = output.transpose(0, 1)[0] if layer.layout == "TNC" else output[0]
        found[layer.name] = states[: ids.shape[1]]  # what networks pad on their own comes last
    return found


@pytest.mark.integration
@pytest.mark.parametrize("name", FAMILIES)
def test_texts_beside_longer_ones_have_the_features_that_they_have_alone(name, checkpoints):
    model = tm.load_model(f"hf:{checkpoints(name)}")
    size = 1 if name in LEAKING else 6
    layers = tm.list_layers(model)
    assert len(layers) >= 2
    wanted = [alone(checkpoints(name), layers, text) for text in TEXTS]
    for pool, by_hand in POOLS.items():
        store = tm.extract(model, (TEXTS, LABELS), pool=pool, batch_size=size, progress=False)
        assert store.names == [layer.name for layer in layers]
        for row, text in enumerate(TEXTS):
            for layer, states in wanted[row].items():
                np.testing.assert_allclose(
                    store[layer][row], by_hand(states).numpy(), atol=1e-5, rtol=1e-4,
                    err_msg=f"{pool} of {layer} for {text!r}",
                )  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_texts_are_cut_to_what_a_network_takes(name, checkpoints):
    limit = FAMILIES[name][1]
    model = tm.load_model(f"hf:{checkpoints(name)}")
    assert model.collate.longest == limit
    texts = ["good " * 2 * limit, "bad " * 2 * limit, "good", "bad film"]
    assert model.batch(texts)["input_ids"].shape == (4, limit)
    tm.extract(model, (texts, [0, 1, 0, 1]), progress=False, batch_size=2)


@pytest.mark.parametrize(
    ("told", "limit"), [(None, 38), (10**30, 38), (10_000, 38), (40, 38), (39, 38), (20, 20)]
)
def test_what_the_tokenizer_says_counts_where_it_is_less(told, limit, tmp_path):
    options = {} if told is None else {"model_max_length": told}
    folder = sequence_families.save("Roberta", tmp_path, **options)
    model = tm.load_model(f"hf:{folder}")
    assert model.collate.longest == limit
    tm.extract(model, (["good " * 200, "bad " * 200], [0, 1]), progress=False)


def test_positions_after_a_padding_index_of_three(tmp_path):
    library = text_models.library()
    vocabulary, merges = text_models.byte_pairs("<s>", "<cls>", "</s>", "<pad>", "<unk>", "<mask>")
    config = library.RobertaConfig(
        vocab_size=len(vocabulary), max_position_embeddings=34, pad_token_id=3, bos_token_id=0,
        eos_token_id=2, **text_models.SMALL,
    )  # fmt: skip
    library.RobertaModel(config).save_pretrained(tmp_path)
    tokenizer = library.RobertaTokenizer(vocabulary, merges, pad_token="<pad>", model_max_length=32)
    tokenizer.save_pretrained(tmp_path)
    assert tm.load_model(f"hf:{tmp_path}").collate.longest == 30  # rows 4 to 33 of the table
    texts = ["good " * 40, "bad " * 40] * 6
    table = tm.rank_models(f"hf:{tmp_path}", (texts, [0, 1] * 6), "knn", progress=False)
    assert not table.failures


def test_a_tokenizer_of_another_network_is_told(tmp_path):
    folder = sequence_families.save("Bert", tmp_path)
    config = text_models.library().BertConfig(**{**FAMILIES["Bert"][0], "vocab_size": 20})
    text_models.library().BertModel(config).save_pretrained(folder)
    with pytest.raises(ExtractionError, match="tokenizer is the network's own"):
        tm.extract(f"hf:{folder}", (TEXTS, LABELS), progress=False)


class Shortened(nn.Module):
    """Half as many positions in the second layer, as in Funnel or CANINE."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.pool = nn.AvgPool1d(2)
        self.mix = nn.Linear(4, 4)

    def forward(self, input_ids, attention_mask):
        x = self.embed(input_ids) * attention_mask[:, :, None]
        return self.mix(self.pool(x.transpose(1, 2)).transpose(1, 2))


def test_a_shorter_layer_is_pooled_where_nothing_is_padded_and_refused_else():
    torch.manual_seed(0)
    network = Shortened().eval()
    ids, mask = torch.randint(0, 9, (2, 6)), torch.ones(2, 6, dtype=torch.int64)
    batch = {"input_ids": ids, "attention_mask": mask}
    layers = list_layers(network, ["embed", "mix"], example=batch)
    with torch.no_grad(), LayerTaps(network, layers) as taps:
        expected = network(**batch).mean(1)
        torch.testing.assert_close(taps.collect()["mix"], expected)
        mask[0, 4:] = 0
        with pytest.raises(ExtractionError, match="layer 'mix': the attention mask has shape"):
            network(**batch)


def test_words_are_not_looked_up_in_a_shorter_layer():
    network = Shortened().eval()
    batch = TextBatch(
        input_ids=torch.randint(0, 9, (2, 6)), attention_mask=torch.ones(2, 6, dtype=torch.int64)
    )
    batch.words, batch.by_word = torch.tensor([[0, 0, 1], [1, 0, 2]]), True
    layers = list_layers(network, "mix", example=batch)
    with (
        torch.no_grad(),
        LayerTaps(network, layers, pool_for(resolve_pool("avg"), batch)),
        pytest.raises(ExtractionError, match="3 tokens per text where the tokenizer gave 6"),
    ):
        network(**batch)

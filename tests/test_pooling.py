"""Poolings against values worked out by hand, and the laws they obey."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from transfer_metrics.errors import ExtractionError, InvalidInputError, UnknownNameError
from transfer_metrics.features.hooks import LayerTaps
from transfer_metrics.features.layers import list_layers
from transfer_metrics.features.pooling import POOLINGS, JointPool, resolve_pool

TOKENS = torch.tensor([[[1.0, 8.0], [3.0, 4.0], [5.0, 0.0]], [[2.0, 2.0], [4.0, 6.0], [9.0, 9.0]]])
RIGHT = torch.tensor([[1, 1, 1], [1, 1, 0]])
LEFT = torch.tensor([[0, 1, 1], [1, 1, 1]])


@pytest.mark.parametrize(
    ("spec", "mask", "expected"),
    [
        ("avg", None, [[3, 4], [5, 17 / 3]]),
        ("avg", RIGHT, [[3, 4], [3, 4]]),
        ("mean_tokens", RIGHT, [[3, 4], [3, 4]]),
        ("mean_tokens", LEFT, [[4, 2], [5, 17 / 3]]),
        ("max", None, [[5, 8], [9, 9]]),
        ("max", RIGHT, [[5, 8], [4, 6]]),
        ("cls", None, [[1, 8], [2, 2]]),
        ("cls", LEFT, [[3, 4], [2, 2]]),
        ("last_token", None, [[5, 0], [9, 9]]),
        ("last_token", RIGHT, [[5, 0], [4, 6]]),
        ("last_token", LEFT, [[5, 0], [9, 9]]),
        ("flatten", None, [[1, 8, 3, 4, 5, 0], [2, 2, 4, 6, 9, 9]]),
    ],
)
def test_tokens_by_hand(spec, mask, expected):
    expected = torch.tensor(expected, dtype=torch.float32)
    torch.testing.assert_close(resolve_pool(spec)(TOKENS, "NTC", mask), expected)
    if spec != "flatten":
        transposed = TOKENS.transpose(1, 2)
        torch.testing.assert_close(resolve_pool(spec)(transposed, "NCT", mask), expected)


def test_padding_that_holds_nan_does_not_leak():
    tokens = TOKENS.clone()
    tokens[1, 2] = float("nan")
    for spec in ("avg", "max", "mean_tokens", "last_token", "cls"):
        assert torch.isfinite(resolve_pool(spec)(tokens, "NTC", RIGHT)).all(), spec


@pytest.mark.parametrize("spec", ["avg", "max", "grid:0", "grid:12", "grid:40"])
def test_maps_do_not_depend_on_the_layout(spec):
    maps = torch.randn(2, 3, 6, 6)
    pool = resolve_pool(spec)
    torch.testing.assert_close(pool(maps, "NCHW"), pool(maps.permute(0, 2, 3, 1), "NHWC"))


@pytest.mark.parametrize(
    ("width", "channels", "size", "dim"),
    [
        (60, 64, 8192, 9216),
        (7, 512, 8192, 25088),
        (56, 256, 512, 256),
        (14, 1024, 8192, 4096),
        (28, 128, 512, 512),
        (7, 512, 40000, 512),
        (7, 512, 0, 512),
    ],
)
def test_grid_on_maps_has_the_published_sizes(width, channels, size, dim):
    maps = torch.zeros(1, channels, width, width)
    assert resolve_pool(f"grid:{size}")(maps, "NCHW").shape == (1, dim)


@pytest.mark.parametrize(
    ("tokens", "channels", "size", "dim"),
    [
        (197, 768, 15360, 16128),
        (197, 768, 32448, 37632),
        (197, 3072, 15360, 15360),
        (197, 768, 768, 768),
        (4, 2, 100, 8),
    ],
)
def test_grid_on_tokens_has_the_published_sizes(tokens, channels, size, dim):
    assert resolve_pool(f"grid:{size}")(torch.zeros(1, tokens, channels), "NTC").shape == (1, dim)


def test_grid_flattens_with_the_channels_last():
    maps = torch.arange(32.0).reshape(1, 2, 4, 4)
    # C=2, T=8: n = 2, windows of 2 x 2; the mean of a window starting at value a is a + 2.5.
    expected = [[2.5, 18.5, 4.5, 20.5, 10.5, 26.5, 12.5, 28.5]]
    torch.testing.assert_close(resolve_pool("grid:8")(maps, "NCHW"), torch.tensor(expected))
    tokens = torch.arange(8.0).reshape(1, 4, 2)
    torch.testing.assert_close(
        resolve_pool("grid:4")(tokens, "NTC"), torch.tensor([[1.0, 2.0, 5.0, 6.0]])
    )


def test_half_precision_is_summed_in_float32():
    # 60 000 equal values overflow a float16 sum, and 256 of them stall a bfloat16 one.
    for dtype in (torch.float16, torch.bfloat16):
        maps = torch.full((1, 1, 250, 240), 2.0, dtype=dtype)
        for spec in ("avg", "grid:1"):
            pooled = resolve_pool(spec)(maps, "NCHW")
            assert pooled.dtype == torch.float32
            assert pooled.item() == 2.0
        tokens = maps.reshape(1, -1, 1)
        mask = torch.ones(1, tokens.shape[1])
        assert resolve_pool("avg")(tokens, "NTC", mask).item() == 2.0


@pytest.mark.parametrize("spec", [*sorted(set(POOLINGS) - {"grid"}), "grid:4"])
def test_vectors_are_left_as_they_are(spec):
    x = torch.randn(3, 5)
    torch.testing.assert_close(resolve_pool(spec)(x, "ND", None), x)


@pytest.mark.parametrize("spec", ["cls", "mean_tokens", "last_token"])
def test_token_poolings_refuse_maps(spec):
    with pytest.raises(InvalidInputError, match=f"{spec}.*needs tokens.*use pool='avg'"):
        resolve_pool(spec)(torch.zeros(1, 3, 4, 4), "NCHW")


def test_a_mask_of_another_length_is_refused():
    with pytest.raises(ExtractionError, match=r"\(2, 3\).*6 tokens"):
        resolve_pool("avg")(torch.zeros(2, 6, 4), "NTC", RIGHT)


def test_specifications():
    with pytest.raises(UnknownNameError, match="did you mean 'avg'"):
        resolve_pool("avgg")
    for wrong in ("grid", "grid:", "grid:x", "grid:-3"):
        with pytest.raises(InvalidInputError, match="whole number"):
            resolve_pool(wrong)
    with pytest.raises(InvalidInputError, match="takes no number"):
        resolve_pool("avg:3")


def test_own_poolings_by_name_and_as_a_function():
    def spread(output, layout, mask):
        return output.flatten(2).std(2)

    def first(output, layout, mask, count):
        return output.flatten(1)[:, :count]

    POOLINGS.register("spread", spread)
    POOLINGS.register("first", first)
    try:
        maps = torch.randn(2, 3, 4, 4)
        torch.testing.assert_close(resolve_pool("spread")(maps, "NCHW"), maps.flatten(2).std(2))
        assert resolve_pool("first:7")(maps, "NCHW").shape == (2, 7)
        assert resolve_pool(spread)(maps, "NCHW").shape == (2, 3)
    finally:
        POOLINGS.unregister("spread")
        POOLINGS.unregister("first")
    with pytest.raises(ExtractionError, match=r"must return \(2, D\)"):
        resolve_pool(lambda output, layout, mask: output)(torch.zeros(2, 3, 4), "NTC")


finite = st.floats(-100, 100, width=32)
tokens = hnp.arrays(np.float32, st.tuples(*[st.integers(1, 6)] * 3), elements=finite)


@settings(max_examples=50, deadline=None)
@given(tokens, st.randoms(use_true_random=False))
def test_mean_and_maximum_do_not_depend_on_the_order_of_tokens(x, random):
    order = list(range(x.shape[1]))
    random.shuffle(order)
    a, b = torch.from_numpy(x), torch.from_numpy(x[:, order].copy())
    for spec in ("avg", "mean_tokens", "max"):
        pool = resolve_pool(spec)
        torch.testing.assert_close(pool(a, "NTC"), pool(b, "NTC"), rtol=1e-5, atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(tokens, st.integers(0, 5), st.booleans())
def test_padding_changes_nothing(x, padding, left):
    a = torch.from_numpy(x)
    mask = torch.ones(a.shape[:2])
    filler = torch.full((a.shape[0], padding, a.shape[2]), 1e6)
    empty = torch.zeros(a.shape[0], padding)
    pair = (lambda new, old: [new, old]) if left else (lambda new, old: [old, new])
    padded, longer = torch.cat(pair(filler, a), 1), torch.cat(pair(empty, mask), 1)
    for spec in ("avg", "mean_tokens", "max", "cls", "last_token"):
        pool = resolve_pool(spec)
        torch.testing.assert_close(
            pool(padded, "NTC", longer), pool(a, "NTC"), rtol=1e-5, atol=1e-4
        )


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(np.float32, st.tuples(*[st.integers(1, 7)] * 4), elements=finite),
    st.integers(0, 200),
)
def test_grid_stays_within_the_range_of_its_input(x, size):
    maps = torch.from_numpy(x)
    pooled = resolve_pool(f"grid:{size}")(maps, "NCHW")
    channels = maps.shape[1]
    assert pooled.shape[1] % channels == 0
    by_channel = pooled.reshape(len(maps), -1, channels)
    low, high = maps.amin((2, 3)), maps.amax((2, 3))
    assert (by_channel >= low[:, None] - 1e-3).all()
    assert (by_channel <= high[:, None] + 1e-3).all()


def test_grid_of_tokens_that_count_has_one_width_and_no_padding():
    """By hand: three runs of five tokens are 0 to 1, 1 to 3 and 3 to 4; of two tokens 0, 0-1, 1."""
    tokens = torch.arange(10.0).reshape(1, 5, 2).repeat(2, 1, 1)
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 0, 0]])
    pooled = resolve_pool("grid:7")(
        tokens.masked_fill(mask[..., None] == 0, torch.nan), "NTC", mask
    )
    expected = [[1.0, 2, 4, 5, 7, 8], [2.0, 3, 3, 4, 4, 5]]
    torch.testing.assert_close(pooled, torch.tensor(expected))
    whole = resolve_pool("grid:10")(tokens, "NTC", torch.ones(2, 5))  # as published where it fits
    torch.testing.assert_close(whole, resolve_pool("grid:10")(tokens, "NTC"))


@pytest.mark.parametrize("partly", [False, True])
def test_a_pooling_that_writes_does_not_change_what_the_network_reads(partly):
    def spoiling(output, layout, mask):
        return output.mul_(0).add_(1).flatten(1) if layout == "ND" else output.zero_().flatten(1)

    network = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).eval()
    x = torch.randn(5, 4)
    layers = list_layers(network, ["0", "1"], example=x)
    both = [resolve_pool(spoiling), resolve_pool("avg")] if partly else [resolve_pool(spoiling)]
    pool = JointPool.of({"0": both, "1": both})
    layers = [replace(layer, dim=3 * len(both)) for layer in layers]
    with torch.no_grad(), LayerTaps(network, layers, pool) as taps:
        found, read = network(x), taps.collect()
    torch.testing.assert_close(found, network(x))
    if partly:
        torch.testing.assert_close(read["0"][:, 3:], network[0](x))

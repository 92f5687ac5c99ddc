"""Statistics of keys: streamed in pieces and merged, they are those of one pass."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rulepatch.core.moments import KeySample, KeyStatistics, SecondMoment


@given(cuts=st.lists(st.integers(0, 40), max_size=4), seed=st.integers(0, 99))
@settings(deadline=None)
def test_merged_moments_are_one_pass(cuts, seed):
    keys = torch.randn(40, 5, generator=torch.Generator().manual_seed(seed))
    whole = SecondMoment(5)
    whole.add(keys)
    merged = SecondMoment(5)
    edges = [0, *sorted(cuts), 40]
    for start, end in itertools.pairwise(edges):
        piece = SecondMoment(5)
        piece.add(keys[start:end])
        merged.merge(piece)
    assert merged.count == whole.count == 40
    assert torch.allclose(merged.mean(), whole.mean(), rtol=1e-12, atol=1e-14)
    assert torch.allclose(whole.mean(), keys.double().T @ keys.double() / 40)


def test_sums_are_kept_in_float64():
    """A float32 sum would lose the small keys beside the large one."""
    moment = SecondMoment(1)
    moment.add(torch.tensor([[1e4]]))
    for _ in range(100):
        moment.add(torch.full((1, 1), 1e-2))
    assert moment.total.item() == pytest.approx(1e8 + 100 * 1e-4, rel=1e-15, abs=1e-6)


def test_half_precision_keys_are_multiplied_in_float64():
    keys = torch.full((4096, 1), 300.0, dtype=torch.float16)  # its square overflows float16
    moment = SecondMoment(1)
    moment.add(keys)
    assert moment.mean().item() == 90_000


def test_float32_products_are_rounded_like_float32_keys():
    keys = torch.randn(9000, 16) + 1
    exact, found = SecondMoment(16), SecondMoment(16, products=torch.float32)
    for moment in (exact, found):
        moment.add(keys)
    scale = exact.total.diagonal().sqrt()
    assert found.total.dtype == torch.float64 and not torch.equal(found.total, exact.total)
    assert float(((found.total - exact.total) / torch.outer(scale, scale)).abs().max()) < 1e-6


def test_sample_keeps_everything_below_its_capacity():
    sample, keys = KeySample(3, capacity=20), torch.randn(15, 3)
    sample.add(keys[:7])
    sample.add(keys[7:])
    assert sorted(sample.keys[:, 0].tolist()) == sorted(keys[:, 0].tolist())


def test_sample_is_uniform_over_the_stream():
    """Early, late and middle keys are equally likely, in one stream and in merged streams."""
    counts = torch.zeros(3)
    for seed in range(300):
        streams = [KeySample(1, capacity=30, seed=2 * seed), KeySample(1, capacity=30, seed=2 * seed + 1)]
        for start in range(0, 200, 50):
            streams[0].add(torch.arange(start, start + 50.0)[:, None])
        streams[1].add(torch.arange(200, 300.0)[:, None])
        streams[0].merge(streams[1])
        assert len(streams[0].keys) == 30
        counts += torch.histc(streams[0].keys, bins=3, min=0, max=300)
    shares = counts / counts.sum()
    assert torch.allclose(shares, torch.full((3,), 1 / 3), atol=0.03)  # four standard errors


def test_same_seed_same_sample():
    samples = [KeySample(2, capacity=5, seed=3) for _ in range(2)]
    keys = torch.randn(100, 2)
    for sample in samples:
        sample.add(keys)
    assert torch.equal(samples[0].keys, samples[1].keys)


def test_quantile_of_the_sample_is_that_of_the_stream():
    statistics = KeyStatistics(2, capacity=4000)
    keys = torch.randn(50_000, 2)
    for piece in keys.split(1000):
        statistics.add(piece)
    rows = torch.tensor([[1.0, 0.0], [0.0, -2.0]])
    found = statistics.quantile(rows, 0.9)
    share_below = [(keys @ row < value).float().mean().item() for row, value in zip(rows, found, strict=True)]
    assert share_below == pytest.approx([0.9, 0.9], abs=0.02)


def test_statistics_survive_saving_and_go_on():
    statistics, keys = KeyStatistics(3, capacity=10), torch.randn(30, 3)
    statistics.add(keys)
    again = KeyStatistics.from_state(statistics.state())
    assert torch.equal(again.moment.mean(), statistics.moment.mean())
    assert torch.equal(again.sample.keys, statistics.sample.keys)
    again.add(torch.randn(5, 3))
    assert again.moment.count == 35 and len(again.sample.keys) == 10


def test_whitening_is_computed_again_when_keys_were_added():
    statistics = KeyStatistics(2)
    statistics.add(torch.eye(2))
    before = statistics.whitening(floor=1e-5)
    assert statistics.whitening(floor=1e-5) is before
    statistics.add(10 * torch.eye(2))
    assert not torch.allclose(statistics.whitening(floor=1e-5), before)

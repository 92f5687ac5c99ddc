"""Statistics of keys: streamed in pieces and merged, they are those of one pass."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rulepatch.core.moments import KeySample, KeyStatistics, SecondMoment
from rulepatch.errors import WorkerError


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


def pieces_of(count, seed=0):
    """Pieces of unequal sizes, one of them empty."""
    sizes = [7, 0, 30, 1, 12, 25, 9, 16][:count]
    return list(torch.randn(sum(sizes), 3, generator=torch.Generator().manual_seed(seed)).split(sizes))


def seen(pieces, numbers, *, capacity=20):
    statistics = KeyStatistics(3, capacity=capacity, seed=5)
    for number in numbers:
        statistics.add(pieces[number], piece=number)
    return statistics


def assert_is_whole(found, whole):
    """The sample to the bit and in the same order, the count exactly, the moment to the rounding of sums in float64."""
    assert torch.equal(found.sample.keys, whole.sample.keys)
    assert torch.equal(found.sample.priorities, whole.sample.priorities)
    assert found.moment.count == whole.moment.count
    error = (found.moment.total - whole.moment.total).abs().max() / whole.moment.total.abs().max()
    assert float(error) < 1e-10


@given(
    owners=st.lists(st.integers(0, 3), min_size=8, max_size=8),
    order=st.permutations(range(8)),
    merges=st.permutations(range(4)),
    capacity=st.sampled_from([1, 20, 500]),
)
@settings(deadline=None)
def test_pieces_shared_out_in_any_way_merge_to_the_same_sample(owners, order, merges, capacity):
    pieces = pieces_of(8)
    parts = [seen(pieces, [n for n in order if owners[n] == part], capacity=capacity) for part in range(4)]
    first = parts[merges[0]]
    for other in merges[1:]:
        first.merge(parts[other])
    assert_is_whole(first, seen(pieces, range(8), capacity=capacity))


def test_pieces_without_numbers_are_numbered_as_they_come():
    pieces, statistics = pieces_of(8), KeyStatistics(3, capacity=20, seed=5)
    for piece in pieces:
        statistics.add(piece)
    assert_is_whole(statistics, seen(pieces, range(8)))


def test_parts_that_number_their_pieces_alike_give_another_sample():
    """The negative control: it is the numbers that make the sample that of the whole."""
    pieces = pieces_of(8)
    first, second = seen(pieces, range(4)), seen(pieces[4:], range(4))
    first.merge(second)
    assert not torch.equal(first.sample.keys, seen(pieces, range(8)).sample.keys)


@pytest.mark.parametrize("capacity", [1, 20, 500])
@pytest.mark.parametrize(
    "shares", [[range(8)], [range(3), range(3, 8)], [[2], [], [0, 1, 3, 4, 5, 6, 7]], [[], [], range(8), []]]
)
def test_a_group_ends_with_the_statistics_of_one_process(group, shares, capacity):
    pieces = pieces_of(8)
    whole = seen(pieces, range(8), capacity=capacity)

    def process(rank):
        statistics = seen(pieces, shares[rank], capacity=capacity)
        statistics.all_reduce()
        return statistics

    found = group(len(shares), process)
    for each in found:
        assert_is_whole(each, whole)
        assert torch.equal(each.moment.total, found[0].moment.total)
    found[0].add(pieces[2], piece=8)  # and goes on from there
    whole.add(pieces[2], piece=8)
    assert_is_whole(found[0], whole)


def test_a_group_that_saw_nothing_has_nothing(group):
    def process(rank):
        statistics = KeyStatistics(3, capacity=4)
        statistics.all_reduce()
        return statistics

    for found in group(2, process):
        assert (found.moment.count, tuple(found.sample.keys.shape)) == (0, (0, 3))


def test_samples_of_a_group_keep_every_bit_and_quantiles_hold(group):
    keys = torch.randn(40_000, 2)
    keys[::3, 1] = -0.0
    pieces = keys.split(1000)

    def process(rank):
        sample = KeySample(2, capacity=4000)
        for number in range(rank, len(pieces), 3):
            sample.add(pieces[number], piece=number)
        sample.all_reduce()
        return sample.keys

    found = group(3, process)
    assert all(torch.equal(each.view(torch.int32), found[0].view(torch.int32)) for each in found)
    assert bool((found[0][:, 1].signbit() & (found[0][:, 1] == 0)).any())
    share = (keys[:, 0] < found[0][:, 0].quantile(0.98)).float().mean()
    assert float(share) == pytest.approx(0.98, abs=0.01)  # four standard errors


def test_whitening_is_computed_again_after_a_group_has_merged(group):
    def process(rank):
        statistics = KeyStatistics(2)
        statistics.add((1 + 9 * rank) * torch.eye(2))
        before = statistics.whitening(floor=1e-5)
        statistics.all_reduce()
        return before, statistics.whitening(floor=1e-5)

    for before, after in group(2, process):
        assert not torch.allclose(before, after)
        assert torch.allclose(after, torch.eye(2, dtype=torch.float64) * (4 / 101) ** 0.5)


def test_a_process_that_is_gone_is_told_of(group):
    def process(rank):
        if rank == 1:
            raise KeyError("gone")
        KeyStatistics(2).all_reduce()

    first, second = group(2, process)
    assert isinstance(first, WorkerError) and "one is gone or late" in str(first) and isinstance(second, KeyError)

"""Statistics of a site's keys over a reference set: streaming, mergeable, in constant memory."""

from collections.abc import Mapping
from typing import Self

import numpy as np
import torch
from torch import Tensor

from rulepatch import collectives
from rulepatch.core import linalg

__all__ = ["KeySample", "KeyStatistics", "SecondMoment"]


class SecondMoment:
    r"""C = E[k kᵀ] of keys seen so far, uncentred, summed in float64 (thesis eq. 2.18).

    Updates in any order, in any batches, on any number of machines, followed by merging, give the result of one pass,
    up to the rounding of float64 sums.

    Args:
        channels: c_in.
        products: type in which the products of some thousands of keys are taken before they are summed in float64.
            float32 is twice as fast on a CPU, and rounds no worse than keys that are float32 themselves.

    Examples:
        >>> moment = SecondMoment(2)
        >>> moment.add(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        >>> moment.mean().tolist()
        [[0.5, 0.0], [0.0, 2.0]]
    """

    def __init__(self, channels: int, *, products: torch.dtype = torch.float64) -> None:
        self.count = 0
        self.products = products
        self.total = torch.zeros(channels, channels, dtype=torch.float64)

    def add(self, keys: Tensor) -> None:
        """Add keys, (p, c_in)."""
        keys = keys if keys.device.type != "mps" else keys.cpu()  # MPS has no float64
        self.total = self.total.to(keys.device)
        for piece in keys.split(4096):
            self.total += linalg.second_moment(piece, products=self.products)
        self.count += len(keys)

    def merge(self, other: "SecondMoment") -> None:
        """Merge another moment into this one."""
        self.total = self.total + other.total.to(self.total.device)
        self.count += other.count

    def all_reduce(self) -> None:
        """All-reduce over the process group; every rank must call it."""
        with collectives.group_scope():
            self.total = collectives.all_reduce_sum(self.total)
            self.count = int(collectives.all_reduce_sum(torch.tensor(self.count)))

    def mean(self) -> Tensor:
        """C, (c_in, c_in), float64.

        Returns:
            The mean of k kᵀ; zeros if no key was seen.
        """
        return self.total / max(self.count, 1)


class KeySample:
    """Reservoir sample of keys: uniform, of bounded size.

    Priority sampling: every key draws a random priority and those with the smallest are kept, so samples of parts merge
    into a sample of the whole. Priorities depend only on the seed and on the number of the batch that a key came in:
    with the batches numbered as in the whole, the sample is bit-identical, however they were distributed and merged.
    Quantiles over the reference set (a gate's threshold) are read off the sample: at 16,384 keys the 0.98 quantile is
    known to ±0.001 in rank (one standard error).

    Args:
        channels: c_in.
        capacity: keys kept at most.
        seed: of the priorities; parts that are to be merged differ in it, or in the numbers of their batches.

    Examples:
        >>> sample = KeySample(3, capacity=2)
        >>> sample.add(torch.randn(10, 3))
        >>> sample.keys.shape
        torch.Size([2, 3])
        >>> pieces = torch.randn(2, 10, 3)
        >>> whole, first, second = (KeySample(3, capacity=5) for _ in range(3))
        >>> whole.add(pieces[0]), whole.add(pieces[1])
        (None, None)
        >>> first.add(pieces[0], piece=0), second.add(pieces[1], piece=1), second.merge(first)
        (None, None, None)
        >>> torch.equal(second.keys, whole.keys)
        True
    """

    def __init__(self, channels: int, *, capacity: int = 16_384, seed: int = 0) -> None:
        self.capacity = capacity
        spare = capacity // 4 + 1  # buffer: keys are sorted when it is full, not at every update
        self._keys = torch.empty(capacity + spare, channels)  # pages that are never written are not allocated
        self._priorities = torch.empty(capacity + spare, dtype=torch.float64)
        self._count = 0
        self._threshold = torch.inf
        self._is_sorted = True
        self._seed = seed % 2**64
        self._next_piece = 0

    @property
    def keys(self) -> Tensor:
        """The sample, (kept, c_in), float32, in the order of priorities."""
        self._sort_out()
        return self._keys[: self._count]

    @property
    def priorities(self) -> Tensor:
        """Priority of each key of the sample, (kept,), float64, ascending."""
        self._sort_out()
        return self._priorities[: self._count]

    def add(self, keys: Tensor, *, piece: int | None = None) -> None:
        """Add a piece of the stream.

        Args:
            keys: (p, c_in).
            piece: its number in the whole stream, from 0; the one after the last piece if None.
        """
        piece = self._next_piece if piece is None else piece
        self._next_piece = piece + 1
        self._enter(keys, torch.from_numpy(np.random.default_rng([self._seed, piece]).random(len(keys))))

    def merge(self, other: "KeySample") -> None:
        """Merge another sample into this one."""
        self._enter(other.keys, other.priorities)

    def all_reduce(self) -> None:
        """All-reduce over the process group; every rank must call it.

        Priorities are exchanged first, then the kept keys, each written by its owner into a tensor of zeros.
        """
        with collectives.group_scope():
            self._all_reduce()

    def _all_reduce(self) -> None:
        own, first = self.priorities, collectives.rank() * self.capacity
        everyone = torch.zeros(collectives.size(), self.capacity, dtype=torch.float64)
        everyone[collectives.rank()] = torch.inf  # of unused entries
        everyone[collectives.rank(), : len(own)] = own
        together = collectives.all_reduce_sum(everyone).flatten()
        order = together.argsort(stable=True)[: self.capacity]
        order = order[together[order].isfinite()]
        mine = (order >= first) & (order < first + self.capacity)
        keys = torch.zeros(len(order), self._keys.shape[1])
        keys[mine] = self.keys[order[mine] - first]
        bits = collectives.all_reduce_sum(keys.view(torch.int32))  # a sum with zeros keeps the sign of -0.0
        self._count, self._threshold = 0, torch.inf
        self._enter(bits.view(torch.float32), together[order])

    def _enter(self, keys: Tensor, priorities: Tensor) -> None:
        """Buffer the keys whose priorities are below the current threshold; nearly none of a long stream are."""
        entering = (priorities < self._threshold).nonzero()[:, 0]
        if len(entering) > self.capacity:
            entering = entering[priorities[entering].topk(self.capacity, largest=False).indices]
        keys, priorities = keys[entering.to(keys.device)], priorities[entering]
        while len(keys):
            if self._count == len(self._keys):
                self._sort_out()
            room = len(self._keys) - self._count
            places = slice(self._count, self._count + min(room, len(keys)))
            self._keys[places], self._priorities[places] = keys[:room], priorities[:room]
            self._count, keys, priorities = places.stop, keys[room:], priorities[room:]
            self._is_sorted = False

    def _sort_out(self) -> None:
        """Keep the keys with the smallest priorities, sorted."""
        if self._is_sorted:
            return
        kept = min(self._count, self.capacity)
        smallest, order = self._priorities[: self._count].topk(kept, largest=False)
        self._keys[:kept], self._priorities[:kept] = self._keys[order], smallest
        self._count, self._is_sorted = kept, True
        if kept == self.capacity:
            self._threshold = float(smallest[-1]) if kept else -torch.inf


class KeyStatistics:
    """Statistics of a site's keys on the reference set: their second moment and a sample of them.

    Args:
        channels: c_in, or c_in·y·x for unfolded patches.
        capacity: keys kept in the sample.
        seed: of the sample.
        products: type in which products of keys are taken, float64 or float32.
    """

    def __init__(
        self, channels: int, *, capacity: int = 16_384, seed: int = 0, products: torch.dtype = torch.float64
    ) -> None:
        self.moment = SecondMoment(channels, products=products)
        self.sample = KeySample(channels, capacity=capacity, seed=seed)
        self._whitening: dict[tuple[int, float], Tensor] = {}

    def add(self, keys: Tensor, *, piece: int | None = None) -> None:
        """Add a piece of the stream.

        Args:
            keys: (p, c_in).
            piece: its number in the whole stream, from 0; the one after the last piece if None.
        """
        self.moment.add(keys)
        self.sample.add(keys, piece=piece)

    def merge(self, other: "KeyStatistics") -> None:
        """Merge other statistics into these."""
        self.moment.merge(other.moment)
        self.sample.merge(other.sample)

    def all_reduce(self) -> None:
        """All-reduce over the process group; every rank must call it.

        As with `merge`, whitening matrices are computed again afterwards.
        """
        self.moment.all_reduce()
        self.sample.all_reduce()

    def whitening(self, *, floor: float) -> Tensor:
        """Z = C^(-1/2), computed once for each floor.

        Returns:
            (c_in, c_in), float64.
        """
        key = (self.moment.count, floor)
        if key not in self._whitening:
            self._whitening = {key: linalg.whitening(self.moment.mean(), floor=floor)}
        return self._whitening[key]

    def quantile(self, rows: Tensor, level: float) -> Tensor:
        """Quantiles of ⟨row, k⟩ over the sample.

        Args:
            rows: (r, c_in).
            level: 0..1.

        Returns:
            (r,), float64.
        """
        scores = rows.double().cpu() @ self.sample.keys.double().T
        return torch.quantile(scores, level, dim=1)

    def state(self) -> dict[str, Tensor]:
        """The state, as tensors that can be saved."""
        return {
            "moment": self.moment.total,
            "count": torch.tensor(self.moment.count),
            "keys": self.sample.keys,
            "priorities": self.sample.priorities,
            "capacity": torch.tensor(self.sample.capacity),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """Restore saved statistics.

        Returns:
            Statistics equal to those whose `state` was saved.
        """
        statistics = cls(len(state["moment"]), capacity=int(state["capacity"]))
        statistics.moment.total, statistics.moment.count = state["moment"], int(state["count"])
        statistics.sample._enter(state["keys"], state["priorities"])
        return statistics

"""Statistics of keys over a reference set, for any number of sites in one pass, kept in a cache."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor

from rulepatch.collectives import all_reduce_sum, rank, size
from rulepatch.core.edit import base_digest
from rulepatch.core.moments import KeyStatistics
from rulepatch.data.cache import Cache
from rulepatch.data.folders import UNREADABLE, ImageSet
from rulepatch.data.processes import assert_same_on_all_ranks, failing_together, run_on_all_ranks
from rulepatch.data.run import Run
from rulepatch.data.stream import ImageStream
from rulepatch.digests import digest_of_json, digest_of_tensors
from rulepatch.errors import ModelError
from rulepatch.models.classifier import Classifier
from rulepatch.tracing import capture
from rulepatch.tracing.sites import Layer, Site, flatten_positions, key_axis, unfold

__all__ = [
    "Measure",
    "PartialStatistics",
    "StatisticsConfig",
    "StatisticsResult",
    "find_statistics",
    "identity_of",
    "key_statistics",
    "part_of",
]

MOST_KEYS = 16_384
"""Keys kept of each site's sample, as long as all samples together stay within `MOST_BYTES`."""

MOST_BYTES = 256 << 20


@dataclass(frozen=True)
class StatisticsConfig:
    """Settings of statistics.

    Attributes:
        architecture: 1 for keys of c_in channels, 2 for unfolded patches of c_in·y·x (thesis fig. 2-3).
        batch_size: images in a pass.
        seed: of the samples.
        capacity: keys in a sample.
        products: type in which products of keys are taken.
    """

    architecture: int
    batch_size: int
    seed: int
    capacity: int
    products: torch.dtype

    @classmethod
    def of(
        cls,
        model: Classifier,
        sites: Sequence[Site],
        *,
        architecture: int = 1,
        products: torch.dtype = torch.float64,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> Self:
        """Settings for some sites, with samples that stay within `MOST_BYTES`.

        Args:
            model: the classifier.
            sites: the sites.
            architecture: 1 or 2.
            products: type in which products of keys are taken.
            batch_size: images in a pass; what suits the device if None.
            seed: of the samples.
        """
        channels = sum(_channels(site, architecture) for site in sites)
        capacity = min(MOST_KEYS, max(256, MOST_BYTES // (4 * channels or 1)))
        return cls(architecture, batch_size or model.batch_size, seed, capacity, products)

    def empty(self, site: Site) -> KeyStatistics:
        """Statistics of a site before the first key."""
        return KeyStatistics(
            _channels(site, self.architecture), capacity=self.capacity, seed=self.seed, products=self.products
        )

    def describe(self) -> dict[str, object]:
        """The settings, as JSON."""
        return asdict(self) | {"products": str(self.products)}


@dataclass(eq=False)
class PartialStatistics:
    """Statistics of a part of a reference set, to be merged with those of the other parts.

    Attributes:
        statistics: of each site, by path; no two of them are the same object.
        skipped: how many images could not be read.
    """

    statistics: Mapping[str, KeyStatistics]
    skipped: int = 0

    def merge(self, other: "PartialStatistics") -> None:
        """Merge another part."""
        for path, statistics in self.statistics.items():
            statistics.merge(other.statistics[path])
        self.skipped += other.skipped

    def all_reduce(self) -> None:
        """All-reduce over the process group; every rank must call it."""
        for statistics in self.statistics.values():
            statistics.all_reduce()
        self.skipped = int(all_reduce_sum(torch.tensor(self.skipped)))


@dataclass(frozen=True, eq=False)
class StatisticsResult:
    """Statistics of some sites, with cache hits and skipped images.

    Attributes:
        statistics: of each site, by path.
        computed: the sites that were not in the cache.
        skipped: number of unreadable images; statistics are cached only if there are none.
        kept: whether all of them are in the cache; valid on rank 0.
    """

    statistics: dict[str, KeyStatistics]
    computed: tuple[str, ...]
    skipped: int
    kept: bool


Measure = Callable[[Sequence[Site], StatisticsConfig, Sequence[str]], PartialStatistics]
"""Computes statistics of sites with distinct keys, from the sites, the settings and the digest of each image."""


def key_statistics(
    model: Classifier,
    images: ImageSet,
    sites: Sequence[Site],
    *,
    architecture: int = 1,
    products: torch.dtype = torch.float64,
    batch_size: int | None = None,
    run: Run = Run(cache=None),  # noqa: B008 - it is frozen
    **settings: Any,
) -> dict[str, KeyStatistics]:
    """Second moment and a sample of the keys of some sites, in one pass over a reference set and in constant memory.

    Within a `process_group` every rank must call it: each reads its own part of the images and returns the statistics
    of all; rank 0 reads and writes the cache.

    Args:
        model: the classifier.
        images: the reference set.
        sites: the sites; sites of one site list with the same input share their statistics.
        architecture: 1 for keys of c_in channels, 2 for unfolded patches of c_in·y·x (thesis fig. 2-3).
        products: type in which products of keys are taken: float64, or float32 where many sites make it slow.
        batch_size: images in a pass; what suits the device if None.
        run: seed of the sample, progress, and the cache; by default there is none.
        settings: single settings of `run` by name.

    Returns:
        Statistics for each site's path.

    Raises:
        SettingError: a setting that `run` does not have, or out of its range.
    """
    run = run.but(**settings)
    config = StatisticsConfig.of(
        model, sites, architecture=architecture, products=products, batch_size=batch_size, seed=run.seed
    )
    return find_statistics(model, images, sites, config, run=run).statistics


def find_statistics(
    model: Classifier,
    images: ImageSet,
    sites: Sequence[Site],
    config: StatisticsConfig,
    *,
    run: Run,
    measure: Measure | None = None,
    part: tuple[int, int] | None = None,
) -> StatisticsResult:
    """`key_statistics`, with cache hits and skipped images.

    However the images are distributed, batches and samples are the same, and moments differ only by the order of
    float64 sums. So the cache's keys are independent of it, and later commands find what several machines computed.

    Args:
        model: the classifier.
        images: the reference set.
        sites: the sites.
        config: settings, the same for all parts.
        run: cache and progress.
        measure: computes statistics that are not in the cache; this process or its group if None.
        part: which part of the images to read, from 0, and of how many; merged in any order, the parts give the
            statistics of the whole. That of this process in its group if None.

    Returns:
        The statistics of each site.
    """
    cache, shared = run.store, size() > 1
    digests = _digests(model, images, sites, config, progress=run.progress) if cache is not None or shared else ()
    with failing_together():
        keys, found = _look_up(model, digests, sites, config, cache if rank() == 0 else None)
    if shared:
        _spread(found, sites, config)
    missing = [site for site in sites if site.path not in found]
    wanted = {_shared(site, config.architecture): site for site in missing}

    total = PartialStatistics({})
    if missing and measure is not None:
        total = measure(list(wanted.values()), config, digests)
    elif missing:
        first, parts = part or (rank(), size())
        indices = part_of(len(images), first, parts, config.batch_size)
        own = ImageSet(tuple(images.pictures[index] for index in indices), images.name)
        total = PartialStatistics({site.path: config.empty(site) for site in wanted.values()})
        with failing_together():
            stream = ImageStream.of(
                model, own, "statistics", progress=run.progress and rank() == 0, batch_size=config.batch_size
            )
            rows = {site.path: _rows(model, site, config.architecture) for site in wanted.values()}
            for number, batch in enumerate(stream):
                for path, inputs in capture.inputs_of(model.module, model.inputs(batch.pixels), rows):
                    seen, statistics = rows[path](inputs), total.statistics[path]
                    statistics.moment.add(seen)
                    statistics.sample.add(seen, piece=first + number * parts)
        total.skipped = len(stream.skipped)
        if shared:
            total.all_reduce()

    found |= {site.path: total.statistics[wanted[_shared(site, config.architecture)].path] for site in missing}
    kept = not total.skipped and all(
        cache is not None and cache.put(keys[site.path], found[site.path].state()) for site in missing if rank() == 0
    )
    return StatisticsResult(
        {site.path: found[site.path] for site in sites}, tuple(site.path for site in missing), total.skipped, kept
    )


def _look_up(
    model: Classifier, digests: Sequence[str], sites: Sequence[Site], config: StatisticsConfig, cache: Cache | None
) -> tuple[dict[str, dict[str, object]], dict[str, KeyStatistics]]:
    """Return each site's key, and the statistics that are in the cache."""
    if cache is None:
        return {}, {}
    keys = _cache_keys(model, digest_of_json(digests), sites, config)
    states = {site.path: cache.get(keys[site.path]) for site in sites}
    sound = {
        site.path: KeyStatistics.from_state(state)
        for site in sites
        if (state := states[site.path]) is not None and _is_sound(state, _channels(site, config.architecture), config)
    }
    return keys, sound


def _is_sound(state: Mapping[str, Tensor], channels: int, config: StatisticsConfig) -> bool:
    """Whether tensors out of a cache, which anybody may have written, can be statistics of so many channels."""
    kept = len(state["priorities"]) if "priorities" in state and state["priorities"].ndim else 0
    whole, numbers = torch.int64, torch.float64
    wanted = {
        "moment": (numbers, (channels, channels)), "count": (whole, ()), "capacity": (whole, ()),
        "keys": (torch.get_default_dtype(), (kept, channels)), "priorities": (numbers, (kept,)),
    }  # fmt: skip
    if {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()} != wanted:
        return False
    count, priorities, moment = int(state["count"]), state["priorities"], state["moment"]
    powers = moment.diagonal()
    return (
        int(state["capacity"]) == config.capacity
        and kept == min(count, config.capacity)
        and all(bool(state[name].isfinite().all()) for name in ("moment", "keys", "priorities"))
        and bool((powers >= 0).all() and ((moment - moment.T).abs() <= 1e-4 * powers.max()).all())
        and bool((priorities >= 0).all() and (priorities < 1).all() and (priorities.diff() >= 0).all())
    )


def _spread(found: dict[str, KeyStatistics], sites: Sequence[Site], config: StatisticsConfig) -> None:
    """Broadcast what rank 0 found, as a sum with zeros of the other ranks."""
    known = all_reduce_sum(torch.tensor([site.path in found for site in sites], dtype=torch.int64)).tolist()
    for site, is_known in zip(sites, known, strict=True):
        if is_known:
            statistics = found.get(site.path) or config.empty(site)
            statistics.all_reduce()
            found[site.path] = statistics


def part_of(count: int, part: int, parts: int, batch_size: int) -> list[int]:
    """Indices of the images of a part: every `parts`-th batch, so that batches are the same as without parts.

    In another batch the keys of an image may be rounded differently.

    Returns:
        Indices in 0..count, ascending; none if there are fewer batches than parts.

    Examples:
        >>> part_of(11, 1, 3, 2)
        [2, 3, 8, 9]
    """
    return [index for index in range(count) if index // batch_size % parts == part]


def identity_of(model: Classifier) -> dict[str, object]:
    """Cache key of a model: everything that determines its activations for an image.

    Networks with the same weights may differ in other respects (padding, for instance), so it includes a digest of the
    operations on a noise image.

    Args:
        model: the classifier.

    Returns:
        A dictionary that can be written as JSON.
    """
    steps = capture.trace(model.module, model.inputs(_noise(model))).steps
    return {
        "weights": base_digest(model.module),
        "operations": digest_of_json([f"{step.operator} {step.arguments}" for step in steps]),
        "preprocess": model.preprocess.describe(),
        "dtype": str(model.dtype),
        "device": model.device.type,
    }


def _noise(model: Classifier) -> Tensor:
    shape = (1, model.preprocess.channels, *model.preprocess.input_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _channels(site: Site, architecture: int) -> int:
    _, c_in, y, x = site.shape
    return c_in if architecture == 1 else c_in * y * x


def _shared(site: Site, architecture: int) -> Hashable:
    """Key that sites with the same keys share; unfolded patches differ for each site."""
    return (site.reads, site.kind) if architecture == 1 else site.path


def _rows(model: Classifier, site: Site, architecture: int) -> Callable[[Tensor], Tensor]:
    """How a site's input becomes keys, (p, c)."""
    layer = model.module.get_submodule(site.path)
    if not isinstance(layer, Layer):
        raise ModelError(f"expected a convolution or linear layer at {site.path} but got {type(layer).__name__}")

    places = site.key_places
    # class and register tokens are not part of the image and have other statistics
    real = places.real if places is not None and site.is_spatial and places.extra_tokens else None

    def rows(keys: Tensor) -> Tensor:
        found = flatten_positions(keys, key_axis(site.kind)) if architecture == 1 else unfold(layer, keys)
        found = found.flatten(0, 1)
        if real is not None:
            found = found.unflatten(0, (-1, len(real)))[:, real.to(found.device)].flatten(0, 1)
        return found

    return rows


def _digests(
    model: Classifier, images: ImageSet, sites: Sequence[Site], config: StatisticsConfig, *, progress: bool
) -> Sequence[str]:
    """Return the digest of each image; within a group each rank reads those of its part.

    So the cache key covers the files that each machine actually read, should copies differ.
    """
    if size() == 1:
        return images.digests(progress=progress)
    assert_same_on_all_ranks("model, sites, settings and number of images", digest_of_json([
        identity_of(model), [site.path for site in sites], config.describe(), len(images),
    ]))  # fmt: skip
    table = torch.zeros(len(images), 32, dtype=torch.uint8)
    indices = part_of(len(images), rank(), size(), config.batch_size)
    own = ImageSet(tuple(images.pictures[index] for index in indices), images.name)
    for index, digest in zip(indices, run_on_all_ranks(own.digests), strict=True):
        if digest != UNREADABLE:
            table[index] = torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)
    rows = all_reduce_sum(table).numpy()
    return [row.tobytes().hex() if row.any() else UNREADABLE for row in rows]


def _cache_keys(
    model: Classifier, images: str, sites: Sequence[Site], config: StatisticsConfig
) -> dict[str, dict[str, object]]:
    """Return each site's cache key, which includes its activations for a noise image."""
    noise = model.inputs(_noise(model))
    common = {"what": "key statistics", "schema": 3, **identity_of(model), "images": images, **config.describe()}
    inputs = capture.inputs_of(model.module, noise, [site.path for site in sites])
    seen = {path: digest_of_tensors({"": keys}) for path, keys in inputs}
    return {site.path: {**common, "site": site.path, "seen": seen[site.path]} for site in sites}

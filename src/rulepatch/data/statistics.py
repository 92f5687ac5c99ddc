"""Statistics of keys over a reference set, for any number of sites in one pass, kept in a cache."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from rulepatch.collectives import add_up, rank, size
from rulepatch.core.edit import base_digest
from rulepatch.core.moments import KeyStatistics
from rulepatch.data.cache import Cache
from rulepatch.data.folders import UNREADABLE, ImageSet
from rulepatch.data.processes import check_same, together
from rulepatch.data.stream import ImageStream
from rulepatch.digests import digest_of_json, digest_of_tensors
from rulepatch.errors import ModelError
from rulepatch.models.classifier import Classifier
from rulepatch.tracing import capture
from rulepatch.tracing.sites import Layer, Site, key_axis, patches, rows

__all__ = [
    "Found",
    "Measure",
    "Part",
    "Recipe",
    "find_statistics",
    "identity_of",
    "key_statistics",
    "part_of",
    "part_statistics",
]

MOST_KEYS = 16_384
"""Keys kept of each site's sample, as long as all samples together stay within `MOST_BYTES`."""

MOST_BYTES = 256 << 20


@dataclass(frozen=True)
class Recipe:
    """What determines statistics besides the model, the pictures and the site.

    Attributes:
        architecture: 1 for keys of c_in channels, 2 for unfolded patches of c_in·y·x (thesis fig. 2-3).
        batch_size: pictures in a pass.
        seed: of the samples.
        capacity: keys in a sample.
        products: type in which products of keys are taken.
    """

    architecture: int
    batch_size: int
    seed: int
    capacity: int
    products: torch.dtype

    def describe(self) -> dict[str, object]:
        """The same as JSON."""
        return asdict(self) | {"products": str(self.products)}


@dataclass(eq=False)
class Part:
    """Statistics of a part of a reference set, to be merged with those of the other parts.

    Attributes:
        statistics: of each site, by path; no two of them are the same object.
        skipped: how many pictures could not be read.
    """

    statistics: Mapping[str, KeyStatistics]
    skipped: int = 0

    def merge(self, other: "Part") -> None:
        """Add another part."""
        for path, statistics in self.statistics.items():
            statistics.merge(other.statistics[path])
        self.skipped += other.skipped

    def all_reduce(self) -> None:
        """Make this, in every process of the group, all parts together; each of them must call it."""
        for statistics in self.statistics.values():
            statistics.all_reduce()
        self.skipped = int(add_up(torch.tensor(self.skipped)))


@dataclass(frozen=True, eq=False)
class Found:
    """Statistics of some sites, and how they were come by.

    Attributes:
        statistics: of each site, by path.
        computed: the sites that were not in the cache.
        skipped: how many pictures could not be read; statistics that lack any are not kept.
        kept: whether the cache has all of them now; the first process of a group knows.
    """

    statistics: dict[str, KeyStatistics]
    computed: tuple[str, ...]
    skipped: int
    kept: bool


Measure = Callable[[Sequence[Site], Recipe, Sequence[str]], Part]
"""Computes statistics of sites that share no keys; it is told the digest of each picture as well."""


def key_statistics(
    model: Classifier,
    images: ImageSet,
    sites: Sequence[Site],
    *,
    architecture: int = 1,
    products: torch.dtype = torch.float64,
    batch_size: int | None = None,
    seed: int = 0,
    cache: Cache | None = None,
    progress: bool = True,
) -> dict[str, KeyStatistics]:
    """Second moment and a sample of the keys of some sites, in one pass over a reference set and in constant memory.

    Where processes work as one (`process_group`) each of them must call it, reads its own part and is given the whole;
    the first one looks into its cache and fills it.

    Args:
        model: the classifier.
        images: the reference set.
        sites: where to look; sites of one survey that read the same tensor share their statistics.
        architecture: 1 for keys of c_in channels, 2 for unfolded patches of c_in·y·x (thesis fig. 2-3).
        products: type in which products of keys are taken: float64, or float32 where many sites make it slow.
        batch_size: pictures in a pass; what suits the device if None.
        seed: of the sample.
        cache: looked into first and added to afterwards; None to keep nothing.
        progress: whether to show a bar on standard error.

    Returns:
        Statistics for each site's path.
    """
    return find_statistics(
        model, images, sites, architecture=architecture, products=products, batch_size=batch_size, seed=seed,
        cache=cache, progress=progress,
    ).statistics  # fmt: skip


def find_statistics(
    model: Classifier,
    images: ImageSet,
    sites: Sequence[Site],
    *,
    architecture: int = 1,
    products: torch.dtype = torch.float64,
    batch_size: int | None = None,
    seed: int = 0,
    cache: Cache | None = None,
    progress: bool = True,
    measure: Measure | None = None,
) -> Found:
    """`key_statistics`, and how they were come by.

    However the pictures are shared out, batches and samples are the same and the moments differ by the order in which
    float64 numbers were summed: so the key in the cache does not say it, and what many machines computed is found by
    every later command.

    Args:
        model: the classifier.
        images: the reference set.
        sites: where to look.
        architecture: as for `key_statistics`, like all others.
        products: type in which products of keys are taken.
        batch_size: pictures in a pass.
        seed: of the sample.
        cache: looked into first and added to afterwards.
        progress: whether to show a bar on standard error.
        measure: computes what the cache lacks; this process (or its group) if None.

    Returns:
        The statistics of each site.
    """
    channels = {site.path: _channels(site, architecture) for site in sites}
    capacity = min(MOST_KEYS, max(256, MOST_BYTES // (4 * sum(channels.values()) or 1)))
    recipe = Recipe(architecture, batch_size or model.batch_size, seed, capacity, products)
    shared = size() > 1
    digests = _digests(model, images, sites, recipe, progress=progress) if cache is not None or shared else ()
    keys, found = together(lambda: _look_up(model, digests, sites, recipe, cache if rank() == 0 else None))
    if shared:
        _spread(found, channels, capacity)
    missing = [site for site in sites if site.path not in found]
    wanted = {_shared(site, architecture): site for site in missing}

    measure_here = partial(
        part_statistics, model, images, list(wanted.values()), recipe, part=rank(), parts=size(),
        progress=progress and rank() == 0,
    )  # fmt: skip
    skipped, kept = 0, True
    if missing:
        part = measure(list(wanted.values()), recipe, digests) if measure is not None else together(measure_here)
        if shared and measure is None:
            part.all_reduce()
        found |= {site.path: part.statistics[wanted[_shared(site, architecture)].path] for site in missing}
        skipped = part.skipped
        kept = not skipped and all(
            cache is not None and cache.put(keys[site.path], found[site.path].state())
            for site in missing if rank() == 0
        )  # fmt: skip
    return Found({site.path: found[site.path] for site in sites}, tuple(site.path for site in missing), skipped, kept)


def _look_up(
    model: Classifier, digests: Sequence[str], sites: Sequence[Site], recipe: Recipe, cache: Cache | None
) -> tuple[dict[str, dict[str, object]], dict[str, KeyStatistics]]:
    """Return each site's key, and the statistics that are in the cache."""
    if cache is None:
        return {}, {}
    keys = _cache_keys(model, digest_of_json(digests), sites, recipe)
    states = {path: cache.get(key) for path, key in keys.items()}
    return keys, {path: KeyStatistics.from_state(state) for path, state in states.items() if state is not None}


def _spread(found: dict[str, KeyStatistics], channels: Mapping[str, int], capacity: int) -> None:
    """Give all processes of the group what the first one found: it is added to the nothing that the others have."""
    known = add_up(torch.tensor([path in found for path in channels], dtype=torch.int64)).tolist()
    for path, is_known in zip(channels, known, strict=True):
        if is_known:
            statistics = found.get(path) or KeyStatistics(channels[path], capacity=capacity)
            statistics.all_reduce()
            found[path] = statistics


def part_of(count: int, part: int, parts: int, batch_size: int) -> list[int]:
    """Which pictures belong to a part: every so many-th batch, so that the batches of all parts are those of the whole.

    Another batch around a picture would round its keys differently.

    Returns:
        Indices in 0..count, ascending; none if there are fewer batches than parts.

    Examples:
        >>> part_of(11, 1, 3, 2)
        [2, 3, 8, 9]
    """
    return [index for index in range(count) if index // batch_size % parts == part]


def part_statistics(
    model: Classifier,
    images: ImageSet,
    sites: Sequence[Site],
    recipe: Recipe,
    *,
    part: int = 0,
    parts: int = 1,
    progress: bool = True,
) -> Part:
    """Statistics of one part of a reference set. Merged in any order, the parts give those of the whole.

    Args:
        model: the classifier.
        images: the whole reference set.
        sites: where to look; none of them read the same tensor.
        recipe: the same for all parts.
        part: which one, 0..parts.
        parts: how many there are.
        progress: whether to show a bar on standard error.

    Returns:
        The part; empty statistics if it has no pictures.
    """
    indices = part_of(len(images), part, parts, recipe.batch_size)
    own = ImageSet(tuple(images.pictures[index] for index in indices), images.name)
    found = {
        site.path: KeyStatistics(
            _channels(site, recipe.architecture), capacity=recipe.capacity, seed=recipe.seed, products=recipe.products
        )
        for site in sites
    }
    stream = ImageStream.of(model, own, "statistics", progress=progress, batch_size=recipe.batch_size)
    for number, batch in enumerate(stream):
        piece = part + number * parts
        readers = {site.path: _reader(model, site, recipe.architecture, found[site.path], piece) for site in sites}
        capture.read_keys(model.module, model.inputs(batch.pixels), readers)
    return Part(found, len(stream.skipped))


def identity_of(model: Classifier) -> dict[str, object]:
    """What determines everything that a model computes of a picture, for keys of the cache.

    Two networks can share their weights and differ in what they do with them (padding, say), so a digest of the
    operations on a picture of noise goes in as well.

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
    """What sites with the same keys have in common; patches are each site's own."""
    return (site.reads, site.kind) if architecture == 1 else site.path


def _reader(
    model: Classifier, site: Site, architecture: int, statistics: KeyStatistics, piece: int
) -> Callable[[Tensor], None]:
    layer = model.module.get_submodule(site.path)
    if not isinstance(layer, Layer):
        raise ModelError(f"expected a convolution or linear layer at {site.path} but got {type(layer).__name__}")

    places = site.key_places
    # class and register tokens are no part of the picture, and unlike all others
    real = places.real if places is not None and site.is_spatial and places.apart else None

    def read(keys: Tensor) -> None:
        found = rows(keys, key_axis(site.kind)) if architecture == 1 else patches(layer, keys)
        found = found.flatten(0, 1)
        if real is not None:
            found = found.unflatten(0, (-1, len(real)))[:, real.to(found.device)].flatten(0, 1)
        statistics.moment.add(found)
        statistics.sample.add(found, piece=piece)

    return read


def _digests(
    model: Classifier, images: ImageSet, sites: Sequence[Site], recipe: Recipe, *, progress: bool
) -> Sequence[str]:
    """Return the digest of each picture, read in a group by the process whose part it is.

    So the cache's key tells what was read where, even if one machine's copy of a picture is another's.
    """
    if size() == 1:
        return images.digests(progress=progress)
    check_same("model, sites, settings and number of pictures", digest_of_json([
        identity_of(model), [site.path for site in sites], recipe.describe(), len(images),
    ]))  # fmt: skip
    table = torch.zeros(len(images), 32, dtype=torch.uint8)
    indices = part_of(len(images), rank(), size(), recipe.batch_size)
    own = ImageSet(tuple(images.pictures[index] for index in indices), images.name)
    for index, digest in zip(indices, together(own.digests), strict=True):
        if digest != UNREADABLE:
            table[index] = torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)
    rows = add_up(table).numpy()
    return [row.tobytes().hex() if row.any() else UNREADABLE for row in rows]


def _cache_keys(model: Classifier, images: str, sites: Sequence[Site], recipe: Recipe) -> dict[str, dict[str, object]]:
    """Return for each site everything that determines its statistics, what it sees of a picture of noise included."""
    noise = model.inputs(_noise(model))
    common = {"what": "key statistics", "schema": 3, **identity_of(model), "images": images, **recipe.describe()}
    seen: dict[str, str] = {}
    readers = {
        site.path: lambda keys, path=site.path: seen.update({path: digest_of_tensors({"": keys})}) for site in sites
    }
    capture.read_keys(model.module, noise, readers)
    return {site.path: {**common, "site": site.path, "seen": seen[site.path]} for site in sites}

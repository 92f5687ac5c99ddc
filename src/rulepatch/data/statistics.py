"""Statistics of keys over a reference set, for any number of sites in one pass, kept in a cache."""

from collections.abc import Callable, Hashable, Mapping, Sequence

import torch
from torch import Tensor

from rulepatch.core import capture
from rulepatch.core.edit import base_digest
from rulepatch.core.moments import KeyStatistics
from rulepatch.core.sites import Layer, Site, key_axis, patches, rows
from rulepatch.data.cache import Cache
from rulepatch.data.folders import ImageSet
from rulepatch.data.stream import ImageStream
from rulepatch.digests import digest_of_json, digest_of_tensors
from rulepatch.errors import ModelError
from rulepatch.models.classifier import Classifier

__all__ = ["identity_of", "key_statistics"]

MOST_KEYS = 16_384
"""Keys kept of each site's sample, as long as all samples together stay within `MOST_BYTES`."""

MOST_BYTES = 256 << 20


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
    batch_size = batch_size or model.batch_size
    channels = {site.path: _channels(site, architecture) for site in sites}
    capacity = min(MOST_KEYS, max(256, MOST_BYTES // (4 * sum(channels.values()) or 1)))
    settings: dict[str, object] = {
        "architecture": architecture,
        "batch_size": batch_size,
        "seed": seed,
        "capacity": capacity,
    }
    settings |= {"products": str(products)}
    keys = _cache_keys(model, images, sites, settings) if cache is not None else {}
    found: dict[str, KeyStatistics] = {}
    for site in sites:
        state = cache.get(keys[site.path]) if cache is not None else None
        if state is not None:
            found[site.path] = KeyStatistics.from_state(state)
    missing = [site for site in sites if site.path not in found]
    if missing:
        sharing = {_shared(site, architecture): site for site in missing}
        computed = {
            shared: KeyStatistics(channels[site.path], capacity=capacity, seed=seed, products=products)
            for shared, site in sharing.items()
        }
        readers = {site.path: _reader(model, site, architecture, computed[key]) for key, site in sharing.items()}
        stream = ImageStream(
            images, model.preprocess, batch_size=batch_size, progress="statistics" if progress else None
        )
        for batch in stream:
            capture.read_keys(model.module, model.inputs(batch.pixels), readers)
        found |= {site.path: computed[_shared(site, architecture)] for site in missing}
        for site in missing:
            if cache is not None and not stream.skipped:
                cache.put(keys[site.path], found[site.path].state())
    return {site.path: found[site.path] for site in sites}


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
    return torch.rand(1, 3, *model.preprocess.input_size, generator=torch.Generator().manual_seed(0))


def _channels(site: Site, architecture: int) -> int:
    _, c_in, y, x = site.shape
    return c_in if architecture == 1 else c_in * y * x


def _shared(site: Site, architecture: int) -> Hashable:
    """What sites with the same keys have in common; patches are each site's own."""
    return (site.reads, site.kind) if architecture == 1 else site.path


def _reader(model: Classifier, site: Site, architecture: int, statistics: KeyStatistics) -> Callable[[Tensor], None]:
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
        statistics.add(found)

    return read


def _cache_keys(
    model: Classifier, images: ImageSet, sites: Sequence[Site], settings: Mapping[str, object]
) -> dict[str, dict[str, object]]:
    """Return for each site everything that determines its statistics, what it sees of a picture of noise included."""
    noise = model.inputs(_noise(model))
    common = {"what": "key statistics", "schema": 2, **identity_of(model), "images": images.digest(), **settings}
    seen: dict[str, str] = {}
    readers = {
        site.path: lambda keys, path=site.path: seen.update({path: digest_of_tensors({"": keys})}) for site in sites
    }
    capture.read_keys(model.module, noise, readers)
    return {site.path: {**common, "site": site.path, "seen": seen[site.path]} for site in sites}

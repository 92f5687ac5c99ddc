"""Context matching: where in images does a rule's key fire? (Bau et al. 2020; thesis 2.1.2)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from rulepatch.core import linalg
from rulepatch.core.changes import LowRank
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.core.moments import KeyStatistics
from rulepatch.core.patched_model import Projection
from rulepatch.core.site_activations import SiteActivations
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.data.run import Run
from rulepatch.data.statistics import key_statistics
from rulepatch.data.stream import ImageStream
from rulepatch.editors.problem import Problem, Reference, build_problem
from rulepatch.errors import SettingError, SiteError
from rulepatch.methods import FLOOR, Rewrite
from rulepatch.models.classifier import Classifier
from rulepatch.text import Table, percent
from rulepatch.tracing import capture
from rulepatch.tracing.model_sites import sites_of
from rulepatch.tracing.sites import Layer, flatten_positions, key_axis

__all__ = [
    "Key",
    "Match",
    "Matcher",
    "Matches",
    "key_at",
    "key_of_concept",
    "key_of_edit",
    "key_of_points",
    "match",
    "scores_on_reference",
]


@dataclass(frozen=True, eq=False)
class Key:
    """Key direction of a rule at a site.

    Attributes:
        site: dotted path of the layer.
        direction: d, (c_in,), or (c_in, y, x) for the second architecture: ⟨d, k⟩ is large where the concept is.
        name: of the concept, for reports.
    """

    site: str
    direction: Tensor = field(repr=False)
    name: str


def key_of_edit(edit: Edit, site: str | None = None) -> Key:
    """The key of an edit: the direction of its gate, or else its first direction.

    Args:
        edit: the edit.
        site: one of its sites; the last if None.

    Raises:
        SiteError: the edit has no low-rank change there.
    """
    found = [change for change in edit.changes if isinstance(change, LowRank) and site in (None, change.site)]
    if not found:
        raise SiteError(
            f"expected an edit with directions at {site or 'some site'} but got one of "
            f"{', '.join(edit.sites) or 'nothing'}; a dense change looks for nothing in particular"
        )
    change = found[-1]
    gate = change.gate
    direction = change.directions[0] if gate is None or gate.direction is None else gate.direction
    names = {exemplar.get("replacement") for exemplar in edit.provenance.get("exemplars", [])} - {None}
    return Key(change.site, direction, ", ".join(sorted(names)) or "the concept")


def key_of_concept(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    *,
    site: str | None = None,
    reference: Reference,
    which: Literal["concept", "replacement"] = "concept",
    run: Run = Run(),  # noqa: B008 - it is frozen
    **settings: Any,
) -> Key:
    """The key of a concept at a site: the first whitened direction of its keys in some exemplars.

    Args:
        model: the classifier.
        exemplars: images, their edited counterparts and masks.
        site: dotted path of the layer; the last whose positions lie in the image if None.
        reference: images, or statistics of every site.
        which: the concept that the mask marks in the original images, or what replaces it in the edited ones.
        run: cache, progress, and the seed of the statistics.
        settings: single settings of `run` by name, in place of its own.

    Raises:
        ExemplarError: no exemplars, or one that does not fit the model.
        SiteError: a site that the model does not have.
    """
    if site is None:
        site_list = sites_of(model)
        site = [each.path for each in site_list.sites if each.is_spatial][-1]
    problem = build_problem(model, exemplars, site, Rewrite(), reference=reference, run=run.but(**settings))
    return key_at(problem, problem.observations[0], which)


def key_at(problem: Problem, seen: SiteActivations, which: Literal["concept", "replacement"] = "concept") -> Key:
    """`key_of_concept` at a site whose problem was posed before.

    Args:
        problem: the problem.
        seen: activations of the site on the exemplars.
        which: the concept that the mask marks in the original images, or what replaces it in the edited ones.
    """
    recording = seen.original if which == "concept" else seen.edited
    keys = flatten_positions(recording.keys, key_axis(seen.site.kind)).double().cpu()
    weights = seen.key_weights.cpu()
    whitener = problem.statistics[seen.site.path].whitening(floor=FLOOR).cpu()
    _, direction = linalg.directions(keys[weights > 0], weights[weights > 0], whitener, 1)
    names = {getattr(exemplar, which) for exemplar in problem.exemplars} - {None}
    return Key(seen.site.path, direction.float(), ", ".join(sorted(names)) or f"the {which}")


def key_of_points(
    model: Classifier,
    image: Image.Image,
    points: Sequence[tuple[float, float]],
    *,
    site: str,
    statistics: Mapping[str, KeyStatistics],
) -> Key:
    """The key of some points of an image: the first whitened direction of the keys around them.

    Args:
        model: the classifier.
        image: RGB.
        points: (x, y) in the image's pixels, at least one; the positions next to theirs count as well.
        site: dotted path of the layer.
        statistics: of the site's keys on a reference set, by path.

    Raises:
        SettingError: there are no points, or the network does not see one.
        SiteError: the model does not have the site, or its positions form no grid.
    """
    where = sites_of(model).site(site)
    if where.key_places is None or not where.is_spatial:
        raise SiteError(f"expected a site whose positions lie in the image but got {site}; choose an earlier one")
    if not points:
        raise SettingError("expected at least one point but got none; click on the concept")
    inputs = model.inputs(model.preprocess.pixels(image)[None])
    keys = (
        flatten_positions(capture.input_of(model.module, inputs, site), key_axis(where.kind))
        .flatten(0, 1)
        .double()
        .cpu()
    )
    numbers = where.key_places.to_map(torch.arange(len(keys), dtype=torch.float64)[None])[0].long()
    around: set[int] = set()
    for down, across in (_cell(model, image, point, (len(numbers), len(numbers[0]))) for point in points):
        around |= set(numbers[max(down - 1, 0) : down + 2, max(across - 1, 0) : across + 2].flatten().tolist())
    own = keys[sorted(around)]
    whitener = statistics[site].whitening(floor=FLOOR).cpu()
    _, direction = linalg.directions(own, torch.ones(len(own), dtype=torch.float64), whitener, 1)
    return Key(site, direction.float(), "what is there")


def _cell(model: Classifier, image: Image.Image, point: tuple[float, float], grid: tuple[int, int]) -> tuple[int, int]:
    """Row and column of the grid in which a point of an image lies."""
    left, top, right, bottom = model.preprocess.window(image.size)
    across, down = (point[0] - left) / (right - left), (point[1] - top) / (bottom - top)
    if not (0 <= across < 1 and 0 <= down < 1):
        raise SettingError(
            f"expected a point that the network sees but got ({point[0]:.0f}, {point[1]:.0f}); it sees the image "
            f"from ({left:.0f}, {top:.0f}) to ({right:.0f}, {bottom:.0f})"
        )
    return int(down * grid[0]), int(across * grid[1])


class Matcher:
    """Matcher of a key at its site.

    Args:
        model: the classifier.
        key: what to look for.
        reference: images that say what is usual, or statistics of the key's site.
        run: cache, progress, and the seed of the statistics.
        settings: single settings of `run` by name, in place of its own.

    Attributes:
        reference_scores: the key's scores at a sample of the reference set's positions, (positions,), ascending.

    Raises:
        SiteError: the model does not have the key's site, or its positions form no grid.
    """

    def __init__(
        self,
        model: Classifier,
        key: Key,
        *,
        reference: Reference,
        run: Run = Run(),  # noqa: B008 - it is frozen
        **settings: Any,
    ) -> None:
        self.model, self.key = model, key
        site = sites_of(model).site(key.site)
        layer = model.module.get_submodule(key.site)
        assert isinstance(layer, Layer)
        architecture = 1 if key.direction.ndim == 1 else 2
        places = site.key_places if architecture == 1 else site.output_places
        if places is None or not site.is_spatial:
            raise SiteError(
                f"expected a site whose positions lie in the image but got {key.site}; choose an earlier one"
            )
        statistics = reference
        if not isinstance(reference, dict):
            known = ImageSet.of(reference, model.classes)
            statistics = key_statistics(model, known, [site], architecture=architecture, run=run, **settings)
        self.reference_scores = scores_on_reference(statistics[key.site], key)
        self._places, self._reader = places, Projection(layer, key.direction[None], None)

    def scores(self, pixels: Tensor) -> NDArray[np.float32]:
        """Scores of the key in images.

        Args:
            pixels: of the part that the network sees, (n, channels, height, width), 0..1.

        Returns:
            ⟨d, k⟩ at each position, (n, h, w).
        """
        keys = capture.input_of(self.model.module, self.model.inputs(pixels), self.key.site)
        scores = self._reader(keys).reshape(len(pixels), -1).float().cpu()
        laid_out: NDArray[np.float32] = self._places.to_map(scores).numpy()
        return laid_out

    def scan(self, stream: ImageStream) -> Iterator["Match"]:
        """Match images, in order.

        Args:
            stream: of the images.

        Yields:
            The match of each image.
        """
        for batch in stream:
            for picture, scores in zip(batch.pictures, self.scores(batch.pixels), strict=True):
                yield Match(picture, scores, float(self.levels(scores.max())))

    def levels(self, scores: NDArray[np.float32]) -> NDArray[np.float64]:
        """Share of the reference set's positions that score less.

        Args:
            scores: of any shape.

        Returns:
            0..1, of the same shape.
        """
        return np.searchsorted(self.reference_scores, scores) / len(self.reference_scores)


@dataclass(frozen=True, eq=False)
class Match:
    """Scores of a key in an image.

    Attributes:
        picture: the image.
        scores: ⟨d, k⟩ at each position of the part that the network sees, (h, w).
        level: share of the reference set's positions that score less than this image's best one, 0..1.
    """

    picture: Picture
    scores: NDArray[np.float32] = field(repr=False)
    level: float

    @property
    def best(self) -> float:
        """The highest score in the image."""
        return float(self.scores.max())

    def mask(self, threshold: float, size: tuple[int, int]) -> NDArray[np.float32]:
        """Mask of the region above a threshold, in the network's crop of the image.

        Args:
            threshold: of the score.
            size: (height, width) of that part.

        Returns:
            (height, width), 0 or 1, with borders as smooth as interpolated scores are.
        """
        grid = Image.fromarray(self.scores).resize(size[::-1], Image.Resampling.BILINEAR)
        return (np.asarray(grid) > threshold).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Matches:
    """Images ranked by how much a key fires in them.

    Attributes:
        key: the key.
        matches: the images, the best first.
        threshold: score of the level that counts as firing.
        level: that quantile over the reference set's positions, 0..1.
        skipped: names of images that could not be read.
    """

    key: Key
    matches: tuple[Match, ...] = field(repr=False)
    threshold: float
    level: float
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.matches)

    @property
    def firing(self) -> tuple[Match, ...]:
        """Those in which the key fires somewhere, the best first."""
        return tuple(match for match in self.matches if match.best > self.threshold)

    def to_json(self) -> dict[str, Any]:
        """The ranking, as JSON."""
        return {
            "site": self.key.site,
            "concept": self.key.name,
            "level": self.level,
            "threshold": self.threshold,
            "n": len(self),
            "firing": len(self.firing),
            "matches": [
                {
                    "picture": match.picture.name,
                    "score": match.best,
                    "level": match.level,
                    "share": float((match.scores > self.threshold).mean()),
                }
                for match in self.matches
            ],
            "skipped": list(self.skipped),
        }

    def to_text(self) -> str:
        """The best matches, as a table."""
        rows = [
            [f"{each.best:.4g}", f"{each.level:.4f}", percent((each.scores > self.threshold).mean()), each.picture.name]
            for each in self.matches[:20]
        ]
        told = Table(["score", "level", "area", "image"], rows).to_text()
        return (
            f"{self.key.name} at {self.key.site}: fires above the {self.level} quantile in {len(self.firing)} of "
            f"{len(self)} images\n{told}"
        )


def match(
    model: Classifier,
    key: Key,
    images: Any,
    *,
    reference: Reference,
    level: float = 0.99,
    run: Run = Run(),  # noqa: B008 - it is frozen
    **settings: Any,
) -> Matches:
    """Rank images by the highest score of a key in them; its level is a quantile over a reference set (thesis 2.2.2).

    Args:
        model: the classifier.
        key: what to look for.
        images: images to look in.
        reference: images that say what is usual, or statistics of the key's site.
        level: quantile of the reference set's positions above which the key counts as firing, 0..1.
        run: cache, progress, and the seed of the statistics.
        settings: single settings of `run` by name, in place of its own.

    Returns:
        The images, the best first.

    Raises:
        SettingError: a level out of range.
        SiteError: the model does not have the key's site, or its positions form no grid.
    """
    if not 0 <= level < 1:
        raise SettingError(f"expected a level in 0..1 (a quantile of the reference set, such as 0.99) but got {level}")
    run = run.but(**settings)
    matcher = Matcher(model, key, reference=reference, run=run)
    stream = ImageStream.of(model, ImageSet.of(images, model.classes), "matching", progress=run.progress)
    ranked = tuple(sorted(matcher.scan(stream), key=lambda each: -each.best))
    threshold = float(np.quantile(matcher.reference_scores, level))
    return Matches(key, ranked, threshold, level, tuple(picture.name for picture in stream.skipped))


def scores_on_reference(statistics: KeyStatistics, key: Key) -> NDArray[np.float32]:
    """Scores of a key at a sample of the reference set's positions.

    Args:
        statistics: of the key's site.
        key: the key.

    Returns:
        (positions,), rising.
    """
    with torch.no_grad():
        scores = statistics.sample.keys.float() @ key.direction.flatten().float()
    return np.sort(scores.numpy())

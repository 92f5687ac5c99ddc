"""Context matching as a segmenter: a concept is where a rule's own key fires (Bau et al. 2020; thesis 2.1.2)."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from rulepatch.concepts.match import Key, Matcher, key_of_edit
from rulepatch.concepts.segment import Region, Request, regions_of, segmenter
from rulepatch.concepts.segmenters.bases import ClosedVocabulary, Entries
from rulepatch.core.edit import Edit
from rulepatch.data.folders import Picture
from rulepatch.data.run import Run
from rulepatch.data.statistics import identity_of
from rulepatch.digests import digest_of_json, digest_of_tensors
from rulepatch.editors.problem import Reference
from rulepatch.errors import SettingError
from rulepatch.models.classifier import Classifier

__all__ = ["ContextMatch", "load"]


class ContextMatch(ClosedVocabulary):
    """A segmenter of the concept of a key.

    A pixel's probability is the quantile of its score among the reference set's positions; it is 0 outside of the
    network's crop.

    Args:
        model: the classifier.
        key: the key, by `key_of_concept` or `key_of_edit`; its name is the concept's.
        reference: images that say what is usual, or statistics of the key's site.
        threshold: quantile of the reference set's positions at or above which the key counts as firing, 0..1.
        run: cache, progress, and the seed of the statistics.
        settings: single settings of `run` by name, in place of its own.

    Raises:
        SiteError: the model does not have the key's site, or its positions form no grid.

    Examples:
        >>> import torch
        >>> from rulepatch.models.registry import load_model
        >>> from rulepatch.playground.pictures import training_images
        >>> model, images = load_model("playground"), training_images(30, seed=0)
        >>> key = Key("blocks.2.conv", torch.eye(48)[0], "stripes")
        >>> found = ContextMatch(model, key, images, cache=None, progress=False)
        >>> found.vocabulary, found.threshold
        (('stripes',), 0.99)
    """

    kind = "context"

    def __init__(
        self,
        model: Classifier,
        key: Key,
        reference: Reference,
        *,
        threshold: float = 0.99,
        run: Run = Run(),  # noqa: B008 - it is frozen
        **settings: Any,
    ) -> None:
        self.threshold = threshold
        self._matcher = Matcher(model, key, reference=reference, run=run, **settings)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The name of the key."""
        return (self._matcher.key.name,)

    @cached_property
    def _digests(self) -> dict[str, Any]:
        model, key = self._matcher.model, self._matcher.key
        return {
            "model": digest_of_json({what: told for what, told in identity_of(model).items() if what != "device"}),
            "key": digest_of_tensors({"direction": key.direction}),
            "reference": digest_of_tensors({"usual": torch.from_numpy(self._matcher.reference_scores)}),
        }

    def describe(self) -> dict[str, Any]:
        """What its answers depend on."""
        key = self._matcher.key
        return {**super().describe(), "site": key.site, "concept": key.name, **self._digests}

    def find(self, picture: Picture, image: Image.Image, queries: Entries) -> dict[str, list[Region]]:
        """A region if the key fires."""
        preprocess = self._matcher.model.preprocess
        scores = self._matcher.scores(preprocess.pixels(image)[None])[0]
        left, top, right, bottom = preprocess.window(image.size)
        down, inside_down = _interpolation(image.height, top, bottom, scores.shape[0])
        across, inside_across = _interpolation(image.width, left, right, scores.shape[1])
        levels = self._matcher.levels((down @ scores @ across.T).astype(np.float32))
        probability = np.where(np.outer(inside_down, inside_across), levels, 0).astype(np.float32)
        return {concept: regions_of(probability[None], self.threshold) for concept in queries}


def _interpolation(pixels: int, start: float, end: float, cells: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """How pixels of a side read cells that lie between two of its points, (pixels, cells), and which lie there."""
    centres = np.arange(pixels) + 0.5
    places = np.clip((centres - start) / (end - start) * cells - 0.5, 0, cells - 1)
    weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(cells)))
    return weights, (centres >= start) & (centres < end)


@segmenter("context")
def load(request: Request) -> ContextMatch:
    """`context/EDIT.safetensors`: the concept that an edit replaces things by, where its key fires in its base.

    Raises:
        BaseMismatchError: the edit was computed on another model.
        EditFileError: the file is missing or no edit.
        SettingError: the model or the reference set is not given.
        SiteError: the edit has no directions.
    """
    if not request.name:
        raise SettingError("expected a saved edit, context/EDIT.safetensors, but got none; name it")
    if request.model is None or request.reference is None:
        missing = "model" if request.model is None else "reference set"
        raise SettingError(f"expected a {missing} for context/{request.name} but got none; give the one of the edit")
    edit = Edit.load(Path(request.name).expanduser())
    edit.check(request.model.module)
    return ContextMatch(
        request.model,
        key_of_edit(edit),
        request.reference,
        threshold=0.99 if request.threshold is None else request.threshold,
        run=request.run,
    )

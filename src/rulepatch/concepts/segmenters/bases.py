"""Base classes of segmenters: open-vocabulary, fixed-vocabulary, and with one network of Hugging Face."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

import torch
from PIL import Image

from rulepatch.concepts.segment import Region, Request, entries_of
from rulepatch.concepts.segmenters.checkpoints import Checkpoint, load_checkpoint, words_of
from rulepatch.data.folders import Picture
from rulepatch.errors import SettingError

__all__ = ["ClosedVocabulary", "Entries", "OpenVocabulary", "SingleNetwork"]

Entries = Mapping[str, tuple[int, ...]]
"""Numbers of entries of a vocabulary by concept."""

Query = TypeVar("Query")


class _Base(ABC, Generic[Query]):
    kind: str
    """Name in the registry."""

    threshold: float
    """Probability at or above which a pixel belongs to a concept."""

    def describe(self) -> dict[str, Any]:
        """What its answers depend on."""
        return {"segmenter": self.kind, "threshold": self.threshold}

    @torch.inference_mode()
    def segment(self, picture: Picture, image: Image.Image, concepts: Sequence[str]) -> dict[str, list[Region]]:
        """Segment concepts in an image.

        Args:
            picture: the image.
            image: the same, read, RGB.
            concepts: the concepts.

        Returns:
            Regions of each concept, the best first; empty if it is not found.

        Raises:
            SettingError: a concept without words, or one that is not in the vocabulary.
        """
        return self.find(picture, image, self._queries(concepts))

    @abstractmethod
    def _queries(self, concepts: Sequence[str]) -> dict[str, Query]: ...

    @abstractmethod
    def find(self, picture: Picture, image: Image.Image, queries: Mapping[str, Query]) -> dict[str, list[Region]]:
        """The regions of each concept, by what stands for it: words, or numbers of entries of the vocabulary."""


class OpenVocabulary(_Base[str]):
    """Open-vocabulary segmenter. Subclasses define `kind`, `threshold` and `find`, which gets words by concept."""

    @property
    def vocabulary(self) -> None:
        """Any words will do."""

    def _queries(self, concepts: Sequence[str]) -> dict[str, str]:
        return dict(zip(concepts, words_of(concepts), strict=True))


class ClosedVocabulary(_Base[tuple[int, ...]]):
    """Fixed-vocabulary segmenter.

    A subclass has a `kind`, a `threshold`, a `vocabulary` and `find`, which gets numbers of entries by concept.
    """

    @property
    @abstractmethod
    def vocabulary(self) -> tuple[str, ...]:
        """The known concepts; synonyms are separated by commas or semicolons."""

    def _queries(self, concepts: Sequence[str]) -> dict[str, tuple[int, ...]]:
        return entries_of(concepts, self.vocabulary)


@dataclass(frozen=True, eq=False)
class SingleNetwork(_Base[Any]):
    """Segmenter with one network of Hugging Face.

    Attributes:
        network: the checkpoint.
        threshold: of the probability at a pixel; by default that of open vocabularies.
    """

    network: Checkpoint
    threshold: float = 0.15

    def describe(self) -> dict[str, Any]:
        """What its answers depend on."""
        return {**super().describe(), **self.network.describe()}

    @classmethod
    def of(
        cls, request: Request, module: str, processor: str | Callable[[Any, str, Any], Any], *, default: str = ""
    ) -> Self:
        """Load a checkpoint.

        Args:
            request: its name is that of the checkpoint.
            module: the network's class in transformers.
            processor: as `load_checkpoint` takes it.
            default: checkpoint if none is named; empty if there is none.

        Raises:
            SettingError: no checkpoint is named and there is no default.
        """
        if not request.name and not default:
            raise SettingError(
                f"expected a checkpoint, {cls.kind}/CHECKPOINT, but got none; its classes are those it knows"
            )
        network = load_checkpoint(request.name or default, module, processor, kind=cls.kind, device=request.device)
        return cls(network, request.threshold or cls.threshold)

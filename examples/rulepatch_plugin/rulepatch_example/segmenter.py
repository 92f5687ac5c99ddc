"""A segmenter without a network: what is bright in a picture, and what is dark."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from rulepatch.concepts import ClosedVocabulary, Entries, Region, Request, regions_of, segmenter
from rulepatch.data import Picture


@dataclass(frozen=True)
class Brightness(ClosedVocabulary):
    """Takes the lightness of a pixel for the probability that it belongs to the concept "bright".

    Attributes:
        threshold: probability at or above which a pixel belongs to a concept.
    """

    threshold: float = 0.5
    kind = "brightness"
    vocabulary = ("bright", "dark")

    def find(self, picture: Picture, image: Image.Image, queries: Entries) -> dict[str, list[Region]]:
        """A region for each concept that is there."""
        lightness = np.asarray(image.convert("L"), np.float32) / np.float32(255)
        probabilities = np.stack([lightness, 1 - lightness])  # (concepts, height, width)
        return {
            concept: regions_of(probabilities[list(entries)], self.threshold) for concept, entries in queries.items()
        }


@segmenter("brightness")
def load(request: Request) -> Brightness:
    """`brightness`."""
    return Brightness(request.threshold or Brightness.threshold)

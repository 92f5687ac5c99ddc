"""CLIPSeg: any words, one light network that runs well on a CPU; coarse masks (Lüddecke and Ecker, CVPR 2022)."""

from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image

from rulepatch.concepts.segment import Region, Request, regions_of, segmenter
from rulepatch.concepts.segmenters.bases import OpenVocabulary, SingleNetwork
from rulepatch.concepts.segmenters.checkpoints import resized, size_of
from rulepatch.data.folders import Picture

__all__ = ["CLIPSeg", "load"]

DEFAULT = "CIDAS/clipseg-rd64-refined"


@dataclass(frozen=True, eq=False)
class CLIPSeg(SingleNetwork, OpenVocabulary):
    """A segmenter of any words by CLIPSeg, one region a concept.

    Attributes:
        network: the checkpoint.
        threshold: of the sigmoid of the network's output at a pixel.
    """

    kind = "clipseg"

    def find(self, picture: Picture, image: Image.Image, queries: Mapping[str, str]) -> dict[str, list[Region]]:
        """A region for each concept that is found."""
        found = {}
        for concept, words in queries.items():
            inputs = self.network.inputs({"text": [words], "images": [image], "padding": True, "truncation": True})
            logits = self.network.module(**inputs).logits
            probability = resized(logits.reshape(1, *logits.shape[-2:]).sigmoid(), size_of(image))
            found[concept] = regions_of(probability, self.threshold)
        return found


@segmenter("clipseg")
def load(request: Request) -> CLIPSeg:
    """`clipseg`, or `clipseg/CHECKPOINT`."""
    return CLIPSeg.of(request, "CLIPSegForImageSegmentation", "CLIPSegProcessor", default=DEFAULT)

"""CLIPSeg: any words, one light network that runs well on a CPU; coarse masks (Lüddecke and Ecker, CVPR 2022)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from rulepatch.concepts.segment import Region, Request, regions_of, segmenter
from rulepatch.concepts.segmenters.checkpoints import Checkpoint, load_checkpoint, resized, size_of, words_of
from rulepatch.data.folders import Picture

__all__ = ["CLIPSeg", "load"]

DEFAULT = "CIDAS/clipseg-rd64-refined"


@dataclass(frozen=True, eq=False)
class CLIPSeg:
    """A segmenter of any words by CLIPSeg, one region a concept.

    Attributes:
        network: the checkpoint.
        threshold: of the sigmoid of the network's output at a pixel.
    """

    network: Checkpoint
    threshold: float = 0.15
    vocabulary: None = None

    def describe(self) -> dict[str, Any]:
        """What its answers depend on."""
        return {"segmenter": "clipseg", "threshold": self.threshold, **self.network.describe()}

    @torch.inference_mode()
    def segment(self, picture: Picture, image: Image.Image, concepts: Sequence[str]) -> dict[str, list[Region]]:
        """Look for concepts in a picture.

        Args:
            picture: the picture.
            image: the same, read, RGB.
            concepts: what to look for, in words.

        Returns:
            A region for each concept that is found.

        Raises:
            SettingError: a concept without words.
        """
        found = {}
        for concept, words in zip(concepts, words_of(concepts), strict=True):
            inputs = self.network.inputs({"text": [words], "images": [image], "padding": True, "truncation": True})
            logits = self.network.module(**inputs).logits
            probability = resized(logits.reshape(1, *logits.shape[-2:]).sigmoid(), size_of(image))
            found[concept] = regions_of(probability, self.threshold)
        return found


@segmenter("clipseg")
def load(request: Request) -> CLIPSeg:
    """`clipseg`, or `clipseg/CHECKPOINT`."""
    network = load_checkpoint(
        request.name or DEFAULT,
        "CLIPSegForImageSegmentation",
        "CLIPSegProcessor",
        kind="clipseg",
        device=request.device,
    )
    return CLIPSeg(network, request.threshold or CLIPSeg.threshold)

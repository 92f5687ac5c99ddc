"""Mask2Former and OneFormer: a list of classes, things and stuff alike (Cheng et al. 2022; Jain et al. 2023)."""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from rulepatch.concepts.segment import Region, Request, regions_of, segmenter
from rulepatch.concepts.segmenters.bases import ClosedVocabulary, Entries, SingleNetwork
from rulepatch.concepts.segmenters.checkpoints import resized, size_of
from rulepatch.data.folders import Picture

__all__ = ["Mask2Former", "OneFormer", "Universal", "load_mask2former", "load_oneformer"]


@dataclass(frozen=True, eq=False)
class Universal(SingleNetwork, ClosedVocabulary):
    """A segmenter of a list of classes by Mask2Former or OneFormer, one region a concept.

    Attributes:
        network: the checkpoint.
        threshold: of the probability of the class at a pixel: over all queries, the sum of the class's probability
            times the mask's, as both papers infer semantic segmentation, at most 1.
    """

    threshold: float = 0.80

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Names of the network's classes."""
        names = self.network.module.config.id2label
        return tuple(str(names[index]).strip() for index in sorted(names))

    def find(self, picture: Picture, image: Image.Image, queries: Entries) -> dict[str, list[Region]]:
        """A region for each concept that is found."""
        if not queries:
            return {}
        inputs = self.network.inputs(self._task(image))
        output = self.network.module(**inputs)
        classes = output.class_queries_logits[0].softmax(-1)[:, :-1]  # the last is that there is nothing
        wanted = torch.stack([classes[:, list(numbers)].sum(1) for numbers in queries.values()])
        maps = torch.einsum("kq,qhw->khw", wanted, output.masks_queries_logits[0].sigmoid())
        maps = _unpadded(maps, inputs["pixel_values"], inputs.get("pixel_mask"))
        probabilities = resized(maps.clamp(0, 1), size_of(image))
        return {
            concept: regions_of(probability[None], self.threshold)
            for concept, probability in zip(queries, probabilities, strict=True)
        }

    def _task(self, image: Image.Image) -> dict[str, Any]:
        """What the processor is given."""
        return {"images": image}


class Mask2Former(Universal):
    """A segmenter by Mask2Former (Cheng et al. 2022)."""

    kind = "mask2former"


class OneFormer(Universal):
    """A segmenter by OneFormer (Jain et al. 2023), whose task is told to it in words."""

    kind = "oneformer"

    def _task(self, image: Image.Image) -> dict[str, Any]:
        return {"images": [image], "task_inputs": ["semantic"]}


def _unpadded(maps: Tensor, pixels: Tensor, mask: Tensor | None) -> Tensor:
    """Maps (n, h, w) over the network's input, without what was padded to the right and below."""
    maps = F.interpolate(maps[None], size=pixels.shape[-2:], mode="bilinear", align_corners=False)[0]
    if mask is None:
        return maps
    inside = mask[0].bool()
    return maps[:, : int(inside.any(1).sum()), : int(inside.any(0).sum())]


@segmenter("mask2former")
def load_mask2former(request: Request) -> Mask2Former:
    """`mask2former/CHECKPOINT`."""
    return Mask2Former.of(request, "Mask2FormerForUniversalSegmentation", "Mask2FormerImageProcessor")


@segmenter("oneformer")
def load_oneformer(request: Request) -> OneFormer:
    """`oneformer/CHECKPOINT`."""
    return OneFormer.of(request, "OneFormerForUniversalSegmentation", _oneformer_processor)


def _oneformer_processor(transformers: Any, place: str, config: Any) -> Any:
    """OneFormer's processor without its list of classes, a file of its own that is downloaded, for training alone."""
    return transformers.OneFormerProcessor(
        transformers.OneFormerImageProcessor.from_pretrained(place, class_info_file=None, trust_remote_code=False),
        transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False),
        task_seq_length=config.task_seq_len,
    )

"""Mask2Former and OneFormer: a list of classes, things and stuff alike (Cheng et al. 2022; Jain et al. 2023)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from rulepatch.concepts.segment import Region, Request, entries_of, regions_of, segmenter
from rulepatch.concepts.segmenters.checkpoints import Checkpoint, load_checkpoint, resized, size_of
from rulepatch.data.folders import Picture
from rulepatch.errors import SettingError

__all__ = ["Universal", "load_mask2former", "load_oneformer"]


@dataclass(frozen=True, eq=False)
class Universal:
    """A segmenter of a list of classes by Mask2Former or OneFormer, one region a concept.

    Attributes:
        kind: which of the two.
        network: the checkpoint.
        threshold: of the probability of the class at a pixel: over all queries, the sum of the class's probability
            times the mask's, as both papers infer semantic segmentation, at most 1.
    """

    kind: Literal["mask2former", "oneformer"]
    network: Checkpoint
    threshold: float = 0.80

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Names of the network's classes."""
        names = self.network.module.config.id2label
        return tuple(str(names[index]).strip() for index in sorted(names))

    def describe(self) -> dict[str, Any]:
        """What its answers depend on."""
        return {"segmenter": self.kind, "threshold": self.threshold, **self.network.describe()}

    @torch.inference_mode()
    def segment(self, picture: Picture, image: Image.Image, concepts: Sequence[str]) -> dict[str, list[Region]]:
        """Look for concepts in a picture.

        Args:
            picture: the picture.
            image: the same, read, RGB.
            concepts: what to look for, by names of classes.

        Returns:
            A region for each concept that is found.

        Raises:
            SettingError: a concept that is no class.
        """
        entries = entries_of(concepts, self.vocabulary)
        if not entries:
            return {}
        task = {"images": [image], "task_inputs": ["semantic"]} if self.kind == "oneformer" else {"images": image}
        inputs = self.network.inputs(task)
        output = self.network.module(**inputs)
        classes = output.class_queries_logits[0].softmax(-1)[:, :-1]  # the last is that there is nothing
        wanted = torch.stack([classes[:, list(numbers)].sum(1) for numbers in entries.values()])
        maps = torch.einsum("kq,qhw->khw", wanted, output.masks_queries_logits[0].sigmoid())
        maps = _unpadded(maps, inputs["pixel_values"], inputs.get("pixel_mask"))
        probabilities = resized(maps.clamp(0, 1), size_of(image))
        return {
            concept: regions_of(probability[None], self.threshold)
            for concept, probability in zip(entries, probabilities, strict=True)
        }


def _unpadded(maps: Tensor, pixels: Tensor, mask: Tensor | None) -> Tensor:
    """Maps (n, h, w) over the network's input, without what was padded to the right and below."""
    maps = F.interpolate(maps[None], size=pixels.shape[-2:], mode="bilinear", align_corners=False)[0]
    if mask is None:
        return maps
    inside = mask[0].bool()
    return maps[:, : int(inside.any(1).sum()), : int(inside.any(0).sum())]


def _load(
    kind: Literal["mask2former", "oneformer"],
    module: str,
    processor: str | Callable[[Any, str, Any], Any],
    request: Request,
) -> Universal:
    if not request.name:
        raise SettingError(f"expected a checkpoint, {kind}/CHECKPOINT, but got none; its classes are those it knows")
    network = load_checkpoint(request.name, module, processor, kind=kind, device=request.device)
    return Universal(kind, network, request.threshold or Universal.threshold)


@segmenter("mask2former")
def load_mask2former(request: Request) -> Universal:
    """`mask2former/CHECKPOINT`."""
    return _load("mask2former", "Mask2FormerForUniversalSegmentation", "Mask2FormerImageProcessor", request)


@segmenter("oneformer")
def load_oneformer(request: Request) -> Universal:
    """`oneformer/CHECKPOINT`."""
    return _load("oneformer", "OneFormerForUniversalSegmentation", _oneformer_processor, request)


def _oneformer_processor(transformers: Any, place: str, config: Any) -> Any:
    """OneFormer's processor without its list of classes, a file of its own that is downloaded, for training alone."""
    return transformers.OneFormerProcessor(
        transformers.OneFormerImageProcessor.from_pretrained(place, class_info_file=None, trust_remote_code=False),
        transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False),
        task_seq_length=config.task_seq_len,
    )

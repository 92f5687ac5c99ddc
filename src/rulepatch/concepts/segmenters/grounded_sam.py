"""GroundingDINO finds boxes for any words, SAM 2 the mask in each box: the default where no list of classes will do.

Liu et al., "Grounding DINO", ECCV 2024; Ravi et al., "SAM 2", 2024; Ren et al., "Grounded SAM", 2024.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rulepatch.concepts.segment import Region, Request, regions_of, segmenter
from rulepatch.concepts.segmenters.bases import OpenVocabulary
from rulepatch.concepts.segmenters.checkpoints import Checkpoint, load_checkpoint, size_of
from rulepatch.data.folders import Picture
from rulepatch.errors import SettingError

__all__ = ["GroundedSAM", "load"]

DEFAULT = "IDEA-Research/grounding-dino-tiny+facebook/sam2.1-hiera-small"
MOST_BOXES = 32
"""Boxes of a concept that masks are made for, the best ones."""


@dataclass(frozen=True, eq=False)
class GroundedSAM(OpenVocabulary):
    """A segmenter of any words by two networks, a region for each box.

    Attributes:
        detector: GroundingDINO.
        masker: SAM 2.
        threshold: of the box's score times the mask's probability at a pixel.
        box_threshold: of the score of a box, for any of the concept's words.
    """

    detector: Checkpoint
    masker: Checkpoint
    threshold: float = 0.15
    box_threshold: float = 0.25
    kind = "grounded-sam"

    def describe(self) -> dict[str, Any]:
        """What its answers depend on."""
        return {
            **super().describe(),
            "box_threshold": self.box_threshold,
            "detector": self.detector.describe(),
            "masker": self.masker.describe(),
        }

    def find(self, picture: Picture, image: Image.Image, queries: Mapping[str, str]) -> dict[str, list[Region]]:
        """A region for each box of each concept, the best first."""
        detected = [self._boxes(image, words) for words in queries.values()]
        boxes = torch.cat([boxes for boxes, _ in detected]) if detected else torch.zeros(0, 4)
        masks = self._masks(image, boxes).split([len(boxes) for boxes, _ in detected]) if len(boxes) else None
        found: dict[str, list[Region]] = {}
        for number, (concept, (_, scores)) in enumerate(zip(queries, detected, strict=True)):
            if masks is None:
                found[concept] = []
                continue
            probabilities = (masks[number] * scores[:, None, None]).cpu().numpy().astype(np.float32)
            found[concept] = regions_of(probabilities, self.threshold, scores.tolist())
        return found

    def _boxes(self, image: Image.Image, words: str) -> tuple[Tensor, Tensor]:
        """Boxes (n, 4) as left, top, right, bottom in pixels, and their scores (n,), the best first."""
        inputs = self.detector.inputs({"images": image, "text": f"{words.lower().rstrip('.')}."})
        output = self.detector.module(**inputs)
        kept = self.detector.processor.post_process_grounded_object_detection(
            output,
            inputs["input_ids"],
            threshold=max(self.box_threshold, self.threshold),  # a pixel can be no surer than its box
            text_threshold=self.box_threshold,
            target_sizes=[size_of(image)],
        )[0]
        best = kept["scores"].argsort(descending=True, stable=True)[:MOST_BOXES]
        return kept["boxes"][best], kept["scores"][best].clamp(0, 1)

    def _masks(self, image: Image.Image, boxes: Tensor) -> Tensor:
        """Probabilities of the masks in boxes, (n, h, w)."""
        inputs = self.masker.inputs({"images": image, "input_boxes": [boxes.cpu().tolist()]})
        output = self.masker.module(
            pixel_values=inputs["pixel_values"], input_boxes=inputs["input_boxes"], multimask_output=False
        )
        logits = self.masker.processor.post_process_masks(output.pred_masks, [size_of(image)], binarize=False)[0]
        masks: Tensor = logits[:, 0].float().sigmoid()
        return masks


@segmenter("grounded-sam")
def load(request: Request) -> GroundedSAM:
    """`grounded-sam`, or `grounded-sam/DETECTOR+SAM`.

    Raises:
        SettingError: one of the two checkpoints is not named.
    """
    detector, _, masker = (request.name or DEFAULT).partition("+")
    if not detector or not masker:
        raise SettingError(
            f"expected two checkpoints, grounded-sam/DETECTOR+SAM, but got {request.name!r}; join both with a +"
        )
    return GroundedSAM(
        load_checkpoint(
            detector,
            "GroundingDinoForObjectDetection",
            "GroundingDinoProcessor",
            kind="grounded-sam",
            device=request.device,
        ),
        load_checkpoint(masker, "Sam2Model", "Sam2Processor", kind="grounded-sam", device=request.device),
        request.threshold or GroundedSAM.threshold,
    )

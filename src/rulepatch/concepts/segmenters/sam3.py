"""SAM 3: any words, all instances, one network; its weights are given to those who ask for them at Hugging Face."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from rulepatch.concepts.segment import Region, Request, regions_of, segmenter
from rulepatch.concepts.segmenters.checkpoints import Checkpoint, load_checkpoint, resized, size_of, words_of
from rulepatch.data.folders import Picture

__all__ = ["SAM3", "load"]

DEFAULT = "facebook/sam3"


@dataclass(frozen=True, eq=False)
class SAM3:
    """A segmenter of any words by SAM 3, a region for each instance.

    Attributes:
        network: the checkpoint.
        threshold: of the instance's score (that the concept is there at all, times that this is one) times the
            instance's mask at a pixel.
    """

    network: Checkpoint
    threshold: float = 0.15
    vocabulary: None = None

    def describe(self) -> dict[str, Any]:
        """What its answers depend on."""
        return {"segmenter": "sam3", "threshold": self.threshold, **self.network.describe()}

    @torch.inference_mode()
    def segment(self, picture: Picture, image: Image.Image, concepts: Sequence[str]) -> dict[str, list[Region]]:
        """Look for concepts in a picture.

        Args:
            picture: the picture.
            image: the same, read, RGB.
            concepts: what to look for, in words.

        Returns:
            A region for each instance of each concept, the best first.

        Raises:
            SettingError: a concept without words.
        """
        all_words = words_of(concepts)
        seen = self.network.module.get_vision_features(self.network.inputs({"images": image})["pixel_values"])
        found = {}
        for concept, words in zip(concepts, all_words, strict=True):
            asked = self.network.inputs({"text": words, "original_sizes": [list(size_of(image))]})
            output = self.network.module(
                vision_embeds=seen, input_ids=asked["input_ids"], attention_mask=asked["attention_mask"]
            )
            scores = output.pred_logits[0].sigmoid()
            if output.presence_logits is not None:
                scores = scores * output.presence_logits[0].sigmoid()
            kept = scores >= self.threshold  # a pixel can be no surer than its instance
            masks = resized(output.pred_masks[0][kept].sigmoid(), size_of(image))
            scores = scores[kept].cpu().numpy()
            found[concept] = regions_of(masks * scores[:, None, None], self.threshold, scores.tolist())
        return found


@segmenter("sam3")
def load(request: Request) -> SAM3:
    """`sam3`, or `sam3/CHECKPOINT`."""
    network = load_checkpoint(request.name or DEFAULT, "Sam3Model", "Sam3Processor", kind="sam3", device=request.device)
    return SAM3(network, request.threshold or SAM3.threshold)

"""SAM 3: open vocabulary, all instances, one network; its weights on the Hugging Face Hub are gated."""

from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image

from rulepatch.concepts.segment import Region, Request, regions_of, segmenter
from rulepatch.concepts.segmenters.bases import OpenVocabulary, SingleNetwork
from rulepatch.concepts.segmenters.checkpoints import resized, size_of
from rulepatch.data.folders import Picture

__all__ = ["SAM3", "load"]

DEFAULT = "facebook/sam3"


@dataclass(frozen=True, eq=False)
class SAM3(SingleNetwork, OpenVocabulary):
    """A segmenter of any words by SAM 3, a region for each instance.

    Attributes:
        network: the checkpoint.
        threshold: of the instance's score (that the concept is there at all, times that this is one) times the
            instance's mask at a pixel.
    """

    kind = "sam3"

    def find(self, picture: Picture, image: Image.Image, queries: Mapping[str, str]) -> dict[str, list[Region]]:
        """A region for each instance of each concept, the best first."""
        seen = self.network.module.get_vision_features(self.network.inputs({"images": image})["pixel_values"])
        found = {}
        for concept, words in queries.items():
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
    return SAM3.of(request, "Sam3Model", "Sam3Processor", default=DEFAULT)

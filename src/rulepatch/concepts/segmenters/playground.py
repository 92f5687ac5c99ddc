"""The playground's exact masks, from the scenes that its images carry."""

from dataclasses import dataclass

from PIL import Image

from rulepatch.concepts.segment import Region, Request, regions_of, segmenter
from rulepatch.concepts.segmenters.bases import ClosedVocabulary, Entries
from rulepatch.data.folders import Picture
from rulepatch.errors import SettingError
from rulepatch.playground.pictures import scene_of
from rulepatch.playground.scenes import CONCEPTS, SIGNS, WHEELS
from rulepatch.playground.styles import GROUNDS

__all__ = ["Playground", "load"]


@dataclass(frozen=True, eq=False)
class Playground(ClosedVocabulary):
    """A segmenter of the playground's images with exact masks.

    It knows the concepts ground, wheels and sign, and each of them by the name of a style where it has that style:
    "road" is the ground where the ground is road.

    Attributes:
        threshold: of the concept's share of a pixel.
        vocabulary: the concepts and the styles.
    """

    threshold: float = 0.5
    vocabulary: tuple[str, ...] = tuple(dict.fromkeys((*CONCEPTS, *GROUNDS, *WHEELS, *SIGNS)))
    kind = "playground"

    def find(self, picture: Picture, image: Image.Image, queries: Entries) -> dict[str, list[Region]]:
        """The exact mask of each concept that the scene has.

        Raises:
            ImageError: the image carries no scene, or was changed since it was rendered.
        """
        scene = scene_of(image, picture.name)
        found = {}
        for concept, (entry,) in queries.items():
            name = self.vocabulary[entry]
            meant = [each for each in CONCEPTS if name in {each, scene.styles.get(each)}]
            found[concept] = [
                region for each in meant for region in regions_of(scene.masks[each][None], self.threshold, [1.0])
            ]
        return found


@segmenter("playground")
def load(request: Request) -> Playground:
    """`playground`.

    Raises:
        SettingError: something is named after it.
    """
    if request.name:
        raise SettingError(f"expected playground alone but got playground/{request.name}; leave the rest out")
    return Playground(request.threshold or Playground.threshold)

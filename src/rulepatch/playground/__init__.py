"""An embedded world: scenes in which every concept has an exact mask, and a classifier trained in it."""

from typing import TYPE_CHECKING

from rulepatch.lazy import exports

if TYPE_CHECKING:
    from rulepatch.playground.pictures import exemplar, image_set, training_images
    from rulepatch.playground.scenes import Scene, render

__all__ = ["Scene", "exemplar", "image_set", "render", "training_images"]

__getattr__, __dir__ = exports(__name__)

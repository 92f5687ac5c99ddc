"""Torchvision's networks: Mask R-CNN for things (91 classes of COCO), DeepLab and others for 20 classes of VOC."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms import functional as TF

from rulepatch.concepts.segment import Region, Request, regions_of, segmenter
from rulepatch.concepts.segmenters.bases import ClosedVocabulary, Entries
from rulepatch.concepts.segmenters.checkpoints import resized, size_of
from rulepatch.data.folders import Picture
from rulepatch.digests import digest_of_tensors
from rulepatch.errors import ModelError, WeightsError, nearest
from rulepatch.models.registry import load_weights, placed

__all__ = ["InstanceSegmenter", "SemanticSegmenter", "load"]

_NOTHING = frozenset({"__background__", "N/A"})


@dataclass(frozen=True, eq=False)
class _OfTorchvision(ClosedVocabulary):
    """Base of both.

    Attributes:
        name: of the architecture.
        module: the network, in evaluation mode.
        categories: names of all of its classes, in order, the background and gaps among them.
        threshold: probability at or above which a pixel belongs to a concept.
    """

    name: str
    module: nn.Module
    categories: tuple[str, ...]
    threshold: float = 0.80
    kind = "torchvision"

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Names of the network's classes."""
        return tuple(name for name in self.categories if name not in _NOTHING)

    @cached_property
    def _weights(self) -> str:
        return digest_of_tensors(self.module.state_dict())

    def describe(self) -> dict[str, Any]:
        """What its answers depend on."""
        return {
            **super().describe(),
            "architecture": self.name,
            "weights": self._weights,
            "categories": list(self.categories),
        }

    def _queries(self, concepts: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Numbers of categories for each concept."""
        known = [number for number, name in enumerate(self.categories) if name not in _NOTHING]
        queries = super()._queries(concepts)
        return {concept: tuple(known[entry] for entry in entries) for concept, entries in queries.items()}

    def _device(self) -> torch.device:
        return next(self.module.parameters()).device


@dataclass(frozen=True, eq=False)
class InstanceSegmenter(_OfTorchvision):
    """A segmenter by Mask R-CNN, a region for each instance (He et al. 2017).

    The threshold is that of the instance's score times its mask's probability at a pixel.
    """

    def find(self, picture: Picture, image: Image.Image, queries: Entries) -> dict[str, list[Region]]:
        """A region for each instance of each concept, the best first."""
        output: Mapping[str, Tensor] = self.module([TF.to_tensor(image).to(self._device())])[0]
        found = {}
        for concept, numbers in queries.items():
            kept = torch.isin(output["labels"].cpu(), torch.tensor(numbers)) & (
                output["scores"].cpu() >= self.threshold
            )  # a pixel can be no surer than its instance
            masks = output["masks"].cpu()[kept, 0].numpy().astype(np.float32)
            scores = output["scores"].cpu()[kept].numpy().astype(np.float32)
            found[concept] = regions_of(masks * scores[:, None, None], self.threshold, scores.tolist())
        return found


@dataclass(frozen=True, eq=False)
class SemanticSegmenter(_OfTorchvision):
    """A segmenter by DeepLab, FCN or LR-ASPP, one region a concept.

    The threshold is that of the class's probability at a pixel, among all classes and the background.

    Attributes:
        transform: what prepares an image, from RGB to (3, h, w).
    """

    transform: Callable[[Image.Image], Tensor] = TF.to_tensor

    def describe(self) -> dict[str, Any]:
        """What its answers depend on."""
        return {**super().describe(), "transform": " ".join(repr(self.transform).split())}

    def find(self, picture: Picture, image: Image.Image, queries: Entries) -> dict[str, list[Region]]:
        """A region for each concept that is found."""
        output = self.module(self.transform(image)[None].to(self._device()))["out"][0].softmax(0)
        found = {}
        for concept, numbers in queries.items():
            probability = resized(output[list(numbers)].sum(0, keepdim=True), size_of(image))
            found[concept] = regions_of(probability, self.threshold)
        return found


@segmenter("torchvision", weights=True)
def load(request: Request) -> InstanceSegmenter | SemanticSegmenter:
    """`torchvision/maskrcnn_…`, `torchvision/deeplabv3_…`, `torchvision/fcn_…` or `torchvision/lraspp_…`.

    Raises:
        ModelError: no such architecture.
        WeightsError: the weights are not here and cannot be downloaded, or do not fit.
    """
    things = [name for name in models.list_models(module=models.detection) if name.startswith("maskrcnn")]
    names = [*things, *models.list_models(module=models.segmentation)]
    if request.name not in names:
        raise ModelError(
            f"expected a network of torchvision that makes masks but got {request.name!r}; "
            f"the nearest are {nearest(request.name, names)}"
        )
    published: Any = models.get_model_weights(request.name).DEFAULT
    categories = tuple(published.meta["categories"])
    module = _module(request.name, published, len(categories), request.weights)
    module = placed(module.eval().requires_grad_(False), request.device)
    threshold = request.threshold or _OfTorchvision.threshold
    if request.name in things:
        return InstanceSegmenter(request.name, module, categories, threshold)
    return SemanticSegmenter(request.name, module, categories, threshold, published.transforms())


def _module(name: str, published: Any, classes: int, weights: Path | None) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        if weights is not None:
            module: nn.Module = models.get_model(name, weights=None, weights_backbone=None, num_classes=classes)
            load_weights(module, weights, _without_auxiliary)
            for layer in module.modules() if name == "maskrcnn_resnet50_fpn" else ():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.eps = 0.0  # as with the published weights, which torchvision puts into other layers
            return module
        try:
            module = models.get_model(name, weights=published)
        except (URLError, OSError) as error:
            raise WeightsError(
                f"expected the weights of torchvision/{name} but they are not here and could not be downloaded "
                f"({error}); give a local file of them"
            ) from None
    if hasattr(module, "aux_classifier"):
        module.register_module("aux_classifier", None)  # it helps in training alone
    return module


def _without_auxiliary(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if not key.startswith("aux_classifier.")}

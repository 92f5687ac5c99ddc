"""Classifiers of the 365 scenes of Places365: `places365/NAME`, with the published checkpoints by `--weights`."""

import re
import warnings
from collections.abc import Mapping
from importlib import resources

from torch import Tensor
from torchvision import models

from rulepatch.errors import ModelError, WeightsError, nearest
from rulepatch.models.classes import Classes
from rulepatch.models.preprocess import Preprocess
from rulepatch.models.registry import Request, Sourced, source

_ARCHITECTURES = ("alexnet", "densenet161", "resnet18", "resnet50", "vgg16")

_PUBLISHED = "resnet18_places365.pth.tar"
"""Name of a published checkpoint, as an example."""


@source("places365")
def load(request: Request) -> Sourced:
    """A network of torchvision with one logit for each scene (Zhou et al., "Places", 2017).

    Images are prepared as for the checkpoints that were published for PyTorch. Those converted from Caffe may want
    another mean and std, which a model file gives.

    Returns:
        The network, its preprocessing and the scenes' names.

    Raises:
        ModelError: no such architecture, or arguments that it does not take.
        WeightsError: weights are wanted, and there are none but those in the user's files.
    """
    if request.name not in _ARCHITECTURES:
        raise ModelError(
            f"expected one of {', '.join(_ARCHITECTURES)} but got places365/{request.name}; "
            f"the nearest is {nearest(request.name, _ARCHITECTURES, count=1)}"
        )
    if request.pretrained:
        raise WeightsError(
            f"expected the weights of places365/{request.name} in a file but got none; give the checkpoint that its "
            f"authors publish with --weights, or as weights in a model file (such as {_PUBLISHED})"
        )
    classes = scenes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of other random weights in time to come
            module = models.get_model(request.name, weights=None, **{"num_classes": len(classes), **request.kwargs})
    except (TypeError, ValueError) as error:
        raise ModelError(f"expected arguments that places365/{request.name} takes but got others ({error})") from None
    usual = request.kwargs.get("num_classes", len(classes)) == len(classes)
    preprocess = Preprocess((224, 224), resize=256, squash=True, keep_exact_size=False)
    return Sourced(module, preprocess, classes if usual else None, translate=_renamed)


def scenes() -> Classes:
    """The 365 scenes.

    Returns:
        Their names, in the order of the published networks' logits.

    Examples:
        >>> len(scenes()), scenes()[0], scenes().index("bus station/indoor")
        (365, 'airfield', 71)
    """
    text = (resources.files("rulepatch.models") / "places365.txt").read_text(encoding="utf-8")
    return Classes(tuple(text.split()))


def _renamed(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A published checkpoint's state dict under torchvision's names of today."""
    caffe = _caffe_names()

    def renamed(key: str) -> str:
        key = key.replace("module.", "")  # AlexNet and VGG were trained with their features alone on several devices
        key = re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key)
        layer, _, kind = key.rpartition(".")
        return f"{caffe[layer]}.{kind}" if layer in caffe else key

    return {renamed(key): tensor for key, tensor in state.items()}


def _caffe_names() -> Mapping[str, str]:
    """Names of VGG-16's layers in Caffe, and where torchvision has them."""
    names = {"classifier.fc6": "classifier.0", "classifier.fc7": "classifier.3", "classifier.fc8a": "classifier.6"}
    index = 0
    for block, convolutions in enumerate((2, 2, 3, 3, 3), start=1):
        for convolution in range(1, convolutions + 1):
            names[f"features.conv{block}_{convolution}"] = f"features.{index}"
            index += 2  # a ReLU follows each,
        index += 1  # and a pool the last
    return names

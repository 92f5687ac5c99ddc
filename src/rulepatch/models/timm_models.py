"""Models of timm: `timm/NAME`."""

from collections.abc import Mapping
from typing import Any

import timm
from timm.data import ImageNetInfo, resolve_model_data_config

from rulepatch.errors import ModelError, WeightsError, nearest
from rulepatch.models import library_settings
from rulepatch.models.classes import Classes
from rulepatch.models.preprocess import Preprocess
from rulepatch.models.registry import Request, Sourced, source


@source("timm")
def load(request: Request) -> Sourced:
    """A classifier of timm, with the preprocessing of its weights.

    Returns:
        The network, its preprocessing, and the class names of ImageNet if it has 1,000 classes.

    Raises:
        ModelError: no such model.
        WeightsError: the weights are not here and cannot be downloaded.
    """
    architecture, _, tag = request.name.partition(".")
    if not timm.is_model(request.name) or (tag and not timm.is_model_pretrained(request.name)):
        options = timm.list_models(f"{architecture}.*", pretrained=True) or timm.list_models()
        raise ModelError(
            f"expected a model of timm but got {request.name!r}; the nearest are {nearest(request.name, options)}"
        )
    try:
        module = timm.create_model(request.name, pretrained=request.pretrained, **request.kwargs)
    except TypeError as error:
        raise ModelError(f"expected arguments that timm/{request.name} takes but got others ({error})") from None
    except Exception as error:
        if not request.pretrained:
            raise
        raise WeightsError(
            f"expected the weights of timm/{request.name} but they are not here and could not be downloaded "
            f"({type(error).__name__}); give a local file with --weights"
        ) from None
    preprocess = preprocess_of(resolve_model_data_config(module))
    if preprocess is not None and "in_chans" in request.kwargs:
        preprocess = preprocess.with_channels(request.kwargs["in_chans"])
    return Sourced(module, preprocess, imagenet_classes() if module.num_classes == 1000 else None)


def imagenet_classes() -> Classes:
    """The 1,000 classes of ImageNet.

    Returns:
        Names with all their synonyms.
    """
    info = ImageNetInfo()
    return Classes(tuple(info.index_to_description(index) for index in range(info.num_classes())), "imagenet")


def preprocess_of(config: Mapping[str, Any]) -> Preprocess | None:
    """The preprocessing that timm's configuration of data describes.

    Returns:
        The same preprocessing, or None if it pads the image.
    """
    return Preprocess.first_of(library_settings.read_config(config))

"""Models of torchvision: `torchvision/NAME`."""

import warnings
from typing import Any
from urllib.error import URLError

from torchvision import models

from rulepatch.errors import ModelError, WeightsError, nearest
from rulepatch.models.attention import call_projections
from rulepatch.models.classes import Classes
from rulepatch.models.preprocess import Preprocess
from rulepatch.models.registry import Request, Sourced, source


@source("torchvision")
def load(request: Request) -> Sourced:
    """A classifier of torchvision, with the preprocessing and class names of its default weights.

    Returns:
        The network and what its weights say of themselves.

    Raises:
        ModelError: no such model.
        WeightsError: the weights are not here and cannot be downloaded.
    """
    names = models.list_models(module=models)
    if request.name not in names:
        raise ModelError(
            f"expected a classifier of torchvision but got {request.name!r}; "
            f"the nearest are {nearest(request.name, names)}"
        )
    weights: Any = models.get_model_weights(request.name).DEFAULT
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of other random weights in time to come
            module = models.get_model(request.name, weights=weights if request.pretrained else None, **request.kwargs)
    except (URLError, OSError) as error:
        raise WeightsError(
            f"expected the weights of torchvision/{request.name} but they are not here and could not be downloaded "
            f"({error}); give a local file with --weights"
        ) from None
    except (TypeError, ValueError) as error:
        raise ModelError(f"expected arguments that torchvision/{request.name} takes but got others ({error})") from None
    names = tuple(weights.meta["categories"])
    usual = request.kwargs.get("num_classes", len(names)) == len(names)
    return Sourced(
        call_projections(module), Preprocess.of(weights.transforms()), Classes(names, "imagenet") if usual else None
    )

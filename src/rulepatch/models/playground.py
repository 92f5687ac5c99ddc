"""The playground's classifier: `playground`. Its weights lie beside this file."""

from importlib import resources

from rulepatch.errors import ModelError, WeightsError
from rulepatch.models.classes import Classes
from rulepatch.models.playground_network import PlaygroundNetwork
from rulepatch.models.preprocess import Preprocess
from rulepatch.models.registry import Request, Sourced, source
from rulepatch.reading import parse_json
from rulepatch.tensors import read_tensors


@source("playground")
def load_playground(request: Request) -> Sourced:
    """The classifier that learnt that vehicles stand on roads.

    Returns:
        The network with its preprocessing and classes.

    Raises:
        ModelError: a name or arguments are given.
    """
    if request.name or request.kwargs:
        raise ModelError(f"expected `playground` alone but got {request.name or dict(request.kwargs)}; leave it out")
    with resources.as_file(resources.files("rulepatch.models") / "playground.safetensors") as path:
        weights, told = read_tensors(path, WeightsError)
    about = parse_json(told["rulepatch"], "the playground's weights", WeightsError)
    module = PlaygroundNetwork(classes=len(about["classes"]))
    if request.pretrained:
        module.load_state_dict(weights)
    size = about["input_size"]
    preprocess = Preprocess((size, size), mean=tuple(about["mean"]), std=tuple(about["std"]))
    return Sourced(module, preprocess, Classes(tuple(about["classes"])))

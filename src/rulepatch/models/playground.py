"""The playground's classifier: `playground`. Its weights lie beside this file."""

import json
from importlib import resources

from safetensors import safe_open
from safetensors.torch import load

from rulepatch.errors import ModelError
from rulepatch.models.classes import Classes
from rulepatch.models.playground_network import PlaygroundNetwork
from rulepatch.models.preprocess import Preprocess
from rulepatch.models.registry import Request, Sourced, source


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
    file = resources.files("rulepatch.models") / "playground.safetensors"
    with resources.as_file(file) as path, safe_open(path, framework="pt") as weights:
        about = json.loads(weights.metadata()["rulepatch"])
    module = PlaygroundNetwork(classes=len(about["classes"]))
    if request.pretrained:
        module.load_state_dict(load(file.read_bytes()))
    size = about["input_size"]
    preprocess = Preprocess((size, size), mean=tuple(about["mean"]), std=tuple(about["std"]))
    return Sourced(module, preprocess, Classes(tuple(about["classes"])))

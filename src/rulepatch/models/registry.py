"""Models by name: one registry of sources, and loading weights from local files."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rulepatch.errors import ModelError, RulepatchWarning, SettingError, reason_of, warn
from rulepatch.forward import device_named, run
from rulepatch.models.checkpoints import read_state
from rulepatch.models.classes import Classes
from rulepatch.models.classifier import Classifier
from rulepatch.models.names import OF_FILES, advice
from rulepatch.models.preprocess import Preprocess
from rulepatch.models.weights import Translate, load_weights, refuse_unsound, save_weights
from rulepatch.registry import Registry

__all__ = [
    "Request",
    "Source",
    "Sourced",
    "Translate",
    "load_model",
    "load_skeleton",
    "load_weights",
    "placed",
    "read_state",
    "save_weights",
    "source",
    "sources",
]


@dataclass(frozen=True)
class Request:
    """Request to a source of models.

    Attributes:
        name: the model's name without the source's prefix.
        kwargs: of the architecture's constructor.
        pretrained: whether the source's own weights are wanted; they are downloaded if they are not there.
        classes: what the model file says of the classes, for a source that makes the network from their names.
    """

    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    pretrained: bool = True
    classes: Classes | None = None


@dataclass(frozen=True)
class Sourced:
    """Network from a source, with its preprocessing, classes and name, as far as known.

    Attributes:
        module: the network.
        preprocess: how images are prepared, if the source knows.
        classes: names of the classes, if the source knows.
        name: for messages and reports; the name that was asked for if None.
        translate: makes this network's state dict out of a published file's, which may use other names.
    """

    module: nn.Module
    preprocess: Preprocess | None = None
    classes: Classes | None = None
    name: str | None = None
    translate: Translate | None = None


Source = Callable[[Request], Sourced]

_SOURCES = Registry[Source](
    "source of models",
    {
        "torchvision": "rulepatch.models.torchvision_models",
        "timm": "rulepatch.models.timm_models",
        "hf": "rulepatch.models.huggingface",
        "open_clip": "rulepatch.models.open_clip_models",
        "places365": "rulepatch.models.places365",
        "playground": "rulepatch.models.playground",
        "python": "rulepatch.models.python_file",
        "toml": "rulepatch.models.model_file",
    },
    group="rulepatch.models",
    error=ModelError,
)


def source(prefix: str) -> Callable[[Source], Source]:
    """Register a source of models under the prefix of their names: `prefix/NAME`.

    Returns:
        A decorator for a function of a `Request`.
    """
    return _SOURCES.register(prefix)


def sources() -> list[str]:
    """Prefixes of all sources, sorted."""
    return _SOURCES.names()


def load_model(name: str, *, weights: Path | str | None = None, device: str | torch.device | None = None) -> Classifier:
    """Load a classifier with its preprocessing and class names.

    Args:
        name: `torchvision/NAME`, `timm/NAME`, `hf/NAME`, `open_clip/NAME`, `places365/NAME`, `playground`,
            `FILE.py:FUNCTION`, a model file `FILE.toml`, or `PREFIX/NAME` of a source that another package registers.
        weights: a local file of weights (safetensors, or what `torch.save` wrote) instead of the source's own;
            `FILE::KEY` for those under one key of a checkpoint that holds several, such as `last.pth::state_dict_ema`.
        device: where to put it; the CPU if None.

    Returns:
        The classifier, in evaluation mode.

    Raises:
        MissingExtraError: the source's library is not installed.
        ModelError: no such model, or its preprocessing or class names are not known.
        SettingError: no such device.
        WeightsError: weights that are missing, damaged or of another architecture.

    Examples:
        >>> model = load_model("playground")
        >>> model.preprocess.input_size, len(model.classes) >= 8
        ((64, 64), True)
    """
    device_named(device)
    given = build(name, pretrained=weights is None)
    if weights is not None:
        load_weights(given.module, Path(weights), given.translate)
    model = _classifier(name, given)
    refuse_unsound(model.module, str(weights or name))
    placed(model.module.eval().requires_grad_(False), device)
    return model


def placed(module: nn.Module, device: str | torch.device | None) -> nn.Module:
    """A network, put on a device.

    Args:
        module: the network; it is moved.
        device: where to put it; the CPU if None.

    Raises:
        SettingError: no such device, or it cannot hold the network.
    """
    place = device_named(device)
    try:
        return module.to(place)
    except RuntimeError as error:  # such as for want of memory
        raise SettingError(
            f"expected a device that can hold the network but got {device} ({reason_of(error)})"
        ) from None


def load_skeleton(name: str) -> Classifier:
    """A classifier without weights, on the meta device where the architecture allows it: enough to list its sites.

    Returns:
        The classifier; no weights are downloaded.

    Raises:
        ModelError: no such model.
    """
    try:
        with torch.device("meta"), warnings.catch_warnings(record=True) as found:  # of weights that do nothing there
            warnings.simplefilter("always")
            model = _classifier(name, build(name, pretrained=False))
        model.module.eval().requires_grad_(False)
        run(model.module, model.example())
        said = [str(each.message) for each in found if issubclass(each.category, RulepatchWarning)]
    except Exception:  # a network that computes with its weights, when it is made or when it runs
        model, said = _classifier(name, build(name, pretrained=False)), []
        model.module.eval().requires_grad_(False)
    for message in said:
        warn(message)
    return model


def build(
    name: str, *, pretrained: bool, kwargs: Mapping[str, Any] | None = None, classes: Classes | None = None
) -> Sourced:
    """Ask the source that a name belongs to.

    Raises:
        ModelError: no source has that name.
    """
    prefix, request_name = _split(name)
    if prefix not in _SOURCES:
        named = [f"{each}/NAME" for each in sources() if each not in {"playground", *OF_FILES}]
        raise ModelError(
            f"expected {', '.join(named)}, playground, FILE.py:FUNCTION or FILE.toml but got {name!r}; "
            f"{advice(name, sources())}"
        )
    return _SOURCES[prefix](Request(request_name, kwargs or {}, pretrained, classes))


def _split(name: str) -> tuple[str, str]:
    if name.endswith(".toml"):
        return "toml", name
    if ".py:" in name:
        return "python", name
    prefix, _, rest = name.partition("/")
    return prefix, rest


def _classifier(name: str, given: Sourced) -> Classifier:
    if given.preprocess is None or given.classes is None:
        missing = "preprocessing" if given.preprocess is None else "class names"
        raise ModelError(
            f"expected {name} to come with its {missing} but it has none; write a model file (FILE.toml) that gives it"
        )
    return Classifier(given.module, given.preprocess, given.classes, given.name or name)

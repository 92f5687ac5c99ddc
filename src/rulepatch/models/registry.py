"""Models by name: one registry of sources, and loading weights from local files."""

import importlib
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

from rulepatch.errors import ModelError, SettingError, WeightsError
from rulepatch.files import atomic_path
from rulepatch.models.classes import Classes
from rulepatch.models.classifier import Classifier
from rulepatch.models.names import advice
from rulepatch.models.preprocess import Preprocess

__all__ = [
    "Request",
    "Source",
    "Sourced",
    "load_model",
    "load_skeleton",
    "placed",
    "read_state",
    "save_weights",
    "source",
    "sources",
]


Translate = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Request:
    """What is asked of a source.

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
    """What a source gives: a network, and what it knows of preprocessing, classes and its own name.

    Attributes:
        module: the network.
        preprocess: how pictures are prepared, if the source knows.
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

_SOURCES: dict[str, Source] = {}
_FILES = {
    "torchvision": "rulepatch.models.torchvision_models",
    "timm": "rulepatch.models.timm_models",
    "hf": "rulepatch.models.huggingface",
    "open_clip": "rulepatch.models.open_clip_models",
    "places365": "rulepatch.models.places365",
    "playground": "rulepatch.models.playground",
    "python": "rulepatch.models.python_file",
    "toml": "rulepatch.models.model_file",
}


def source(prefix: str) -> Callable[[Source], Source]:
    """Register a source of models under the prefix of their names: `prefix/NAME`.

    Returns:
        A decorator for a function of a `Request`.
    """

    def register(function: Source) -> Source:
        _SOURCES[prefix] = function
        return function

    return register


def sources() -> list[str]:
    """Prefixes of all sources.

    Returns:
        Prefixes, sorted.
    """
    return sorted({*_SOURCES, *_FILES})


def load_model(name: str, *, weights: Path | str | None = None, device: str | torch.device | None = None) -> Classifier:
    """Load a classifier with its preprocessing and class names.

    Args:
        name: `torchvision/NAME`, `timm/NAME`, `hf/NAME`, `open_clip/NAME`, `places365/NAME`, `playground`,
            `FILE.py:FUNCTION` or a model file `FILE.toml`.
        weights: local weights (safetensors, or a state dict without other objects) instead of the source's own.
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
    given = build(name, pretrained=weights is None)
    if weights is not None:
        load_weights(given.module, Path(weights), given.translate)
    model = _classifier(name, given)
    _refuse_nan(model.module, str(weights or name))
    placed(model.module.eval().requires_grad_(False), device)
    return model


def placed(module: nn.Module, device: str | torch.device | None) -> nn.Module:
    """A network, put on a device.

    Args:
        module: the network; it is moved.
        device: where to put it; the CPU if None.

    Returns:
        The same network.

    Raises:
        SettingError: no such device.
    """
    try:
        return module.to(device or "cpu")
    except (AssertionError, RuntimeError) as error:  # torch has no type of its own for it
        reason = str(error).partition("\n")[0]
        raise SettingError(f"expected a device that is here, such as cpu, but got {str(device)!r} ({reason})") from None


def load_skeleton(name: str) -> Classifier:
    """A classifier without weights, on the meta device where the architecture allows it: enough to list its sites.

    Returns:
        The classifier; no weights are downloaded.

    Raises:
        ModelError: no such model.
    """
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of weights that do nothing there
            model = _classifier(name, build(name, pretrained=False))
        model.module.eval().requires_grad_(False)
        model.module(model.example())
    except Exception:  # a network that computes with its weights, when it is made or when it runs
        model = _classifier(name, build(name, pretrained=False))
        model.module.eval().requires_grad_(False)
    return model


def build(
    name: str, *, pretrained: bool, kwargs: Mapping[str, Any] | None = None, classes: Classes | None = None
) -> Sourced:
    """Ask the source that a name belongs to.

    Returns:
        What the source gives.

    Raises:
        ModelError: no source has that name.
    """
    prefix, request_name = _split(name)
    if prefix not in _SOURCES and prefix in _FILES:
        importlib.import_module(_FILES[prefix])
    if prefix not in _SOURCES:
        raise ModelError(
            "expected torchvision/NAME, timm/NAME, hf/NAME, open_clip/NAME, places365/NAME, playground, "
            f"FILE.py:FUNCTION or FILE.toml but got {name!r}; {advice(name, sources())}"
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


def load_weights(module: nn.Module, path: Path, translate: Translate | None = None) -> None:
    """Load a state dict from a local file into a network.

    Args:
        module: the network; unchanged if anything is wrong.
        path: safetensors, or what `torch.save` wrote of a state dict. Nothing but tensors is ever unpickled.
        translate: makes the network's state dict out of the file's.

    Raises:
        WeightsError: the file is missing or damaged, or its tensors do not fit the network.
    """
    state = read_state(path)
    own = module.state_dict()
    if not own.keys() & state.keys():  # training on several devices puts a name before all others
        state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    if translate is not None:
        state = dict(translate(state))
    given = {own[key].data_ptr() for key in own.keys() & state.keys()}
    optional = {key for key in own if key.endswith("num_batches_tracked") or own[key].data_ptr() in given}
    missing, unknown = own.keys() - state.keys() - optional, state.keys() - own.keys()
    if missing or unknown:
        raise WeightsError(
            f"expected the weights of {type(module).__name__} but {path} lacks {len(missing)} of its tensors "
            f"and has {len(unknown)} others (such as {min(missing or unknown)}); name the right architecture or file"
        )
    for key, tensor in state.items():
        if tensor.shape != own[key].shape:
            raise WeightsError(
                f"expected {key} of shape {tuple(own[key].shape)} but {path} has {tuple(tensor.shape)}; "
                "name the right architecture or file"
            )
    module.load_state_dict(state, strict=False)


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a network's state dict to a safetensors file, whole or not at all.

    Args:
        module: the network.
        path: the file.

    Raises:
        OutputError: its folder does not exist, or it is a folder itself.
    """
    with atomic_path(path) as unfinished:
        save_model(module, str(unfinished))


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a local file: safetensors, or what `torch.save` wrote. Nothing but tensors is unpickled.

    Args:
        path: the file.

    Returns:
        The tensors by name, on the CPU.

    Raises:
        WeightsError: the file is missing or damaged, or holds anything but a state dict of tensors.
    """
    if not path.is_file():
        raise WeightsError(f"expected weights at {path} but there is no such file; check the path")
    if _is_program(path):
        raise WeightsError(
            f"expected a state dict of tensors but {path} is a TorchScript archive, a program, and is not run; "
            "save the state_dict() of what torch.jit.load makes of it instead"
        )
    try:
        with path.open("rb") as file:
            begins_like_safetensors = file.read(9).endswith(b"{")
        if begins_like_safetensors or path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError, AttributeError) as error:
        raise WeightsError(
            f"expected a readable weights file but {path} is damaged ({error}); get a sound copy"
        ) from None
    except Exception as error:  # the unpickler's refusals have no common type
        raise WeightsError(
            f"expected a state dict of tensors but {path} is none, or holds other objects ({type(error).__name__}), "
            "which are never loaded; save model.state_dict() instead"
        ) from None
    for key in ("state_dict", "model_state_dict", "model"):
        loaded = loaded.get(key, loaded) if isinstance(loaded, Mapping) else loaded
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise WeightsError(
            f"expected a state dict of tensors in {path} but got something else; save model.state_dict()"
        )
    return {str(key): value for key, value in loaded.items()}


def _is_program(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())  # as torch itself tells them
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def _refuse_nan(module: nn.Module, name: str) -> None:
    for key, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise WeightsError(f"expected finite weights but {key} of {name} holds NaN or infinity; get a sound copy")

"""Image classifiers of Hugging Face: `hf/NAME`, or `hf/FOLDER` for one that lies here."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from timm.data import ImageNetInfo
from torch import Tensor

from rulepatch.errors import MissingExtraError, ModelError, WeightsError, reason_of
from rulepatch.models import library_settings
from rulepatch.models.classes import Classes
from rulepatch.models.preprocess import Preprocess
from rulepatch.models.registry import Request, Sourced, Translate, source
from rulepatch.models.timm_models import imagenet_classes

__all__ = ["quiet", "read_processor", "transformers_library"]


@source("hf")
def load(request: Request) -> Sourced:
    """An image classifier of Hugging Face with the preprocessing of its processor and the class names of its config.

    Nothing but safetensors is read, and no code that comes with a model is run.

    Returns:
        The network and what its files say of it; its preprocessing is None if it cannot be expressed as ours.

    Raises:
        MissingExtraError: transformers is not installed.
        ModelError: no such model, or none that classifies images.
        WeightsError: the weights are not here and cannot be downloaded, or do not fit.
    """
    transformers = transformers_library()
    folder = Path(request.name).expanduser()
    name = str(folder) if request.name and folder.is_dir() else request.name
    with quiet(transformers):
        config = _config(transformers, name, request.kwargs)
        module = _pretrained(transformers, name, config) if request.pretrained else _random(transformers, name, config)
        preprocess = _preprocess(transformers, name)
    channels = getattr(config, "num_channels", None)
    if preprocess is not None and channels is not None:
        preprocess = preprocess.with_channels(channels)
    names = tuple(str(config.id2label[index]) for index in sorted(config.id2label))
    return Sourced(module.float(), preprocess, _classes(names), translate=_translation(transformers, module))


def transformers_library() -> Any:
    """The library transformers, imported when it is needed.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise MissingExtraError(
            "expected the library transformers for models of Hugging Face but it is not installed; "
            "pip install 'rulepatch[hf]'"
        ) from None
    return transformers


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Keep the library from reporting on what is said, or refused, in a sentence of ours; downloads show their bars.

    Args:
        transformers: the library.
    """
    logging, hub = transformers.utils.logging, import_module("huggingface_hub.utils")
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    downloads = not hub.are_progress_bars_disabled()
    hub_verbosity = hub.logging.get_verbosity()  # it tells of every retry
    hub.logging.set_verbosity_error()
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # of downloads as well
    if downloads:
        hub.enable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        hub.logging.set_verbosity(hub_verbosity)
        if bars:
            logging.enable_progress_bar()


def _config(transformers: Any, name: str, kwargs: Mapping[str, Any]) -> Any:
    try:
        config, unknown = transformers.AutoConfig.from_pretrained(
            name, trust_remote_code=False, return_unused_kwargs=True, **kwargs
        )
    except Exception as error:  # of the network, of the file, of the settings in it
        if name and Path(name).is_dir():
            raise ModelError(
                f"expected a config.json that transformers reads in {name} but it cannot be read "
                f"({reason_of(error)}); mend it, or name another folder"
            ) from None
        raise ModelError(
            f"expected a folder with a config.json or a model of Hugging Face but {name!r} is no folder, and no model "
            f"that is here or can be had ({reason_of(error)}); give a local folder, hf/FOLDER, or check the name"
        ) from None
    if unknown:
        raise ModelError(f"expected arguments that the configuration of hf/{name} takes but got {', '.join(unknown)}")
    return config


def _random(transformers: Any, name: str, config: Any) -> Any:
    try:
        return transformers.AutoModelForImageClassification.from_config(config, trust_remote_code=False)
    except Exception as error:
        raise ModelError(
            f"expected an image classifier but hf/{name} cannot be made into one ({reason_of(error)}); name another"
        ) from None


def _pretrained(transformers: Any, name: str, config: Any) -> Any:
    try:
        module, found = transformers.AutoModelForImageClassification.from_pretrained(
            name, config=config, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:
        _random(transformers, name, config)  # says so if there is no such classifier, whatever its weights
        raise WeightsError(
            f"expected the weights of hf/{name} as safetensors but they are not here, cannot be downloaded or do not "
            f"fit ({reason_of(error)}); give a local file with --weights (pickles are not read)"
        ) from None
    if missing := sorted(found["missing_keys"]):  # the library makes them up, as for a head that is still to be trained
        raise WeightsError(
            f"expected all weights of a classifier but those of hf/{name} lack {len(missing)} tensors (such as "
            f"{missing[0]}); name a model whose head was trained"
        )
    return module


def _translation(transformers: Any, module: Any) -> Translate:
    """Files keep the names that a network had when it was published; the library knows them all."""

    def translate(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if state.keys() == module.state_dict().keys():
            return state
        with quiet(transformers):
            renamed, found = type(module).from_pretrained(
                None,
                config=module.config,
                state_dict=dict(state),
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        own = {key: tensor for key, tensor in renamed.state_dict().items() if key not in found["missing_keys"]}
        others = {key: torch.empty(0) for key in found["unexpected_keys"]}
        misshapen = {key: torch.empty(shape, device="meta") for key, shape, _ in found["mismatched_keys"]}
        return {**own, **others, **misshapen}

    return translate


def _classes(names: tuple[str, ...]) -> Classes:
    """Class names, known by WordNet id if they are ImageNet's, perhaps after one for the background."""
    imagenet = imagenet_classes().names
    first = len(names) - len(imagenet)
    if first not in {0, 1}:
        return Classes(names)
    same = sum(not _synonyms(a).isdisjoint(_synonyms(b)) for a, b in zip(names[first:], imagenet, strict=True))
    if same < 990:  # a few differ in spelling from list to list
        return Classes(names)
    return Classes(names, "imagenet" if first == 0 else ("", *ImageNetInfo().label_names()))


def _synonyms(name: str) -> set[str]:
    return {synonym.replace("_", " ").strip().lower() for synonym in name.split(",")}


def _preprocess(transformers: Any, name: str) -> Preprocess | None:
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    except Exception:  # there is none, or one that is code; a model file can say how images are prepared
        return None
    return read_processor(processor)


def read_processor(processor: Any) -> Preprocess | None:
    """Read the preprocessing off an image processor of transformers.

    Args:
        processor: an image processor.

    Returns:
        The same preprocessing; None if it has steps that ours has not: padding, other orders of the channels, patches.
    """
    return Preprocess.first_of(library_settings.read_processor(processor))

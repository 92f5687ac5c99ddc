"""Loading of Hugging Face networks with their processors, and digests of both."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from rulepatch.digests import digest_of_json, digest_of_tensors
from rulepatch.errors import ModelError, SettingError, WeightsError, reason_of
from rulepatch.models.huggingface import quiet, transformers_library
from rulepatch.models.registry import placed
from rulepatch.reading import parse_json

__all__ = ["Checkpoint", "load_checkpoint", "resized", "size_of", "words_of"]

_FOR_TRAINING = frozenset({"class_info_file", "metadata", "num_text", "repo_path"})
"""Settings of processors that do not affect preprocessing, such as paths."""


def _plain(text: str) -> Any:
    """What a library's JSON says; vocabularies may hold anything."""
    return parse_json(text, "the settings of a network", ModelError, free=True, most=1 << 30)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A network of Hugging Face with its processor.

    Attributes:
        name: its name on the Hub; "local" for a folder.
        module: the network, in evaluation mode, float32.
        processor: its processor of images and words.
    """

    name: str
    module: Any
    processor: Any

    @cached_property
    def digests(self) -> dict[str, str]:
        """Digests of the weights and of the processor's settings."""
        image = _plain(getattr(self.processor, "image_processor", self.processor).to_json_string())
        settings = {"image": {key: value for key, value in image.items() if key not in _FOR_TRAINING}}
        tokenizer = getattr(self.processor, "tokenizer", None)
        if tokenizer is not None:
            settings["words"] = _plain(tokenizer.backend_tokenizer.to_str())
            for changed_by_use in ("padding", "truncation"):
                settings["words"].pop(changed_by_use, None)
        config = {
            key: value
            for key, value in self.module.config.to_dict().items()
            if not key.startswith("_") and key != "transformers_version"
        }
        return {
            "weights": digest_of_tensors(self.module.state_dict()),
            "settings": digest_of_json(_plain(json.dumps([settings, config], default=str))),
        }

    def describe(self) -> dict[str, Any]:
        """What the network's answers depend on."""
        return {"checkpoint": self.name, "architecture": type(self.module).__name__, **self.digests}

    def inputs(self, given: Mapping[str, Any]) -> Any:
        """Preprocess images, words and boxes.

        Args:
            given: keyword arguments of the processor.

        Returns:
            Tensors by name, on the network's device.
        """
        return self.processor(**given, return_tensors="pt").to(self.module.device)


def load_checkpoint(
    name: str,
    module: str,
    processor: str | Callable[[Any, str, Any], Any],
    *,
    kind: str,
    device: str | None = None,
) -> Checkpoint:
    """Load a network and its processor from a folder or from Hugging Face.

    Only safetensors files are read, and no remote code is run.

    Args:
        name: a local folder, or a model of Hugging Face, which is downloaded if necessary.
        module: the network's class in transformers.
        processor: the processor's class in transformers, or what makes it from the library, the place of the files and
            the network's configuration.
        kind: of the segmenter, for messages.
        device: where to put the network; the CPU if None.

    Raises:
        MissingExtraError: transformers is not installed, or too old to have the network.
        ModelError: the folder or the model is no such network, or lacks what prepares its inputs.
        SettingError: no such device.
        WeightsError: the weights are not here and cannot be downloaded, or do not fit.
    """
    transformers = transformers_library()
    if not hasattr(transformers, module):
        raise ModelError(
            f"expected a transformers that has {module} but got {transformers.__version__}; "
            "pip install --upgrade transformers"
        )
    is_local = bool(name) and Path(name).expanduser().is_dir()
    place = str(Path(name).expanduser()) if is_local else name
    with quiet(transformers):
        network = _network(getattr(transformers, module), place, kind, is_local=is_local)
        try:
            if callable(processor):
                prepare = processor(transformers, place, network.config)
            else:
                prepare = getattr(transformers, processor).from_pretrained(place, trust_remote_code=False)
        except Exception as error:  # of the network, of the files, of what stands in them
            raise ModelError(
                f"expected {kind}/{name} to come with its processor but it cannot be read ({reason_of(error)}); "
                "complete the folder, or name another"
            ) from None
    _refuse_empty_tokenizer(network, prepare, f"{kind}/{name}")
    placed(network.float().eval().requires_grad_(False), device)
    return Checkpoint("local" if is_local else name, network, prepare)


def _network(architecture: Any, place: str, kind: str, *, is_local: bool) -> Any:
    try:
        network, found = architecture.from_pretrained(
            place, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:
        if is_local:
            raise WeightsError(
                f"expected a {architecture.__name__} as config.json and safetensors in {place} but it cannot be read "
                f"({reason_of(error)}); complete the folder, or name another"
            ) from None
        raise WeightsError(
            f"expected the weights of {place} but they are not here and cannot be downloaded ({reason_of(error)}); "
            f"check the name, or get its files where there is a network and name their folder, {_with_folder(kind)}"
        ) from None
    missing = sorted(set(found["missing_keys"]) & {key for key, _ in network.named_parameters()})
    if missing:  # which the library would initialise randomly
        raise WeightsError(
            f"expected all weights of a {architecture.__name__} but {place} lacks {len(missing)} tensors (such as "
            f"{missing[0]}); name a checkpoint of this architecture"
        )
    return network


def _with_folder(kind: str) -> str:
    return f"{kind}/DETECTOR_FOLDER+SAM_FOLDER" if kind == "grounded-sam" else f"{kind}/FOLDER"


def _refuse_empty_tokenizer(network: Any, processor: Any, name: str) -> None:
    """Check the tokenizer: without its files, the library silently makes an empty one when offline."""
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None:
        return
    config = network.config
    expected = getattr(getattr(config, "text_config", None), "vocab_size", None)
    expected = expected or getattr(config, "text_encoder_vocab_size", None) or 0
    if not expected / 2 <= len(tokenizer) or (expected and len(tokenizer) > expected):
        raise ModelError(
            f"expected {name} to come with a tokenizer of about {expected} words but it has {len(tokenizer)}; "
            "complete it with its tokenizer's files"
        )


def words_of(concepts: Sequence[str]) -> list[str]:
    """Prompts of an open vocabulary for concepts.

    Returns:
        The same, without spaces around them.

    Raises:
        SettingError: a concept without words.
    """
    words = [" ".join(concept.split()) for concept in concepts]
    if not all(words):
        raise SettingError("expected a concept in words but got an empty one; name it")
    return words


def size_of(image: Image.Image) -> tuple[int, int]:
    """Size of an image in array order.

    Returns:
        (height, width).
    """
    return image.height, image.width


def resized(maps: Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
    """Interpolate maps to an image's size.

    Args:
        maps: (n, h, w).
        size: (height, width).

    Returns:
        (n, height, width).
    """
    if not len(maps):
        return np.zeros((0, *size), np.float32)
    at_size = F.interpolate(maps[None].float(), size=size, mode="bilinear", align_corners=False)[0]
    found: NDArray[np.float32] = at_size.cpu().numpy().astype(np.float32)
    return found

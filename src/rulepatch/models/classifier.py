"""A classifier: a network with its preprocessing and class names."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, overload

import torch
from PIL import Image
from torch import Tensor, nn

from rulepatch.errors import ImageError, ModelError
from rulepatch.forward import inference, run
from rulepatch.images import as_image, read_image
from rulepatch.models.classes import Classes
from rulepatch.models.first_pass import FirstPass, first_pass
from rulepatch.models.outputs import as_logits, unboxed
from rulepatch.models.prediction import TOP, Prediction
from rulepatch.models.preprocess import Preprocess
from rulepatch.text import brief, plural, quoted
from rulepatch.wrappers import unwrapped

__all__ = ["Classifier"]


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network with its preprocessing and class names.

    Attributes:
        module: any module that maps (n, channels, height, width) to logits (n, classes), as a tensor or in a tuple,
            dictionary or the like with one such tensor; of a compiled or parallel module the network inside, which has
            the same weights.
        preprocess: how images are prepared; anything that `Preprocess.of` reads.
        classes: names of the classes, in the order of the logits.
        name: for messages and reports.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> model = Classifier(net, Preprocess((32, 32)), ["cat", "dog"])
        >>> model.logits(model.example()).shape
        torch.Size([1, 2])
    """

    module: nn.Module
    preprocess: Preprocess
    classes: Classes
    name: str = "the model"

    def __init__(
        self, module: nn.Module, preprocess: Any, classes: "Classes | Sequence[str]", name: str = "the model"
    ) -> None:
        object.__setattr__(self, "module", _network(module))
        object.__setattr__(self, "preprocess", Preprocess.of(preprocess, channels=_channels(self.module)))
        object.__setattr__(self, "classes", Classes.of(classes))
        object.__setattr__(self, "name", name)

    def __repr__(self) -> str:
        size = "×".join(map(str, self.preprocess.input_size))
        count = sum(parameter.numel() for parameter in self.module.parameters())
        counts = plural(len(self.classes), "class", "classes"), plural(count, "parameter")
        return brief("Classifier", quoted(self.name), f"{size} pixels", *counts, str(self.device))

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a file, though it could be iterated over
        self, pictures: Image.Image | Path | str, *, top: int = TOP
    ) -> Prediction: ...

    @overload
    def __call__(self, pictures: Iterable[Image.Image | Path | str], *, top: int = TOP) -> list[Prediction]: ...

    def __call__(
        self, pictures: Image.Image | Path | str | Iterable[Image.Image | Path | str], *, top: int = TOP
    ) -> Prediction | list[Prediction]:
        """Predict the classes of images, in evaluation mode; `logits` takes preprocessed tensors.

        Args:
            pictures: an image (PIL) or its file; or several of them.
            top: number of likeliest classes.

        Returns:
            A prediction, or a list of them if several images were given.

        Raises:
            ImageError: a file that is no image, or something else than images.
            SettingError: `top` is below 1.

        Examples:
            >>> net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
            >>> model = Classifier(net, Preprocess((8, 8)), ["red", "green", "blue"])
            >>> model(Image.new("RGB", (9, 9), "lime")).name
            'green'
        """
        if isinstance(pictures, Image.Image | Path | str):
            return self([pictures], top=top)[0]
        if not isinstance(pictures, Iterable) or hasattr(pictures, "shape"):
            raise ImageError(
                f"expected an image (PIL), a file, or a list of them but got {type(pictures).__name__}; "
                "make images of arrays with PIL.Image.fromarray, and give tensors that are prepared to `logits`"
            )
        given = list(pictures)
        found: list[Prediction] = []
        for start in range(0, len(given), self.batch_size):
            pixels = [self.preprocess.pixels(_opened(each)) for each in given[start : start + self.batch_size]]
            with inference(self.module):
                found += Prediction.of(self.logits(self.inputs(torch.stack(pixels))), self.classes, top=top)
        return found

    def with_module(self, module: nn.Module, new_classes: Sequence[str] = ()) -> "Classifier":
        """The same classifier around another network, whose further logits are those of new classes."""
        classes = Classes((*self.classes.names, *new_classes), self.classes.wordnet) if new_classes else self.classes
        made = Classifier(module, self.preprocess, classes, self.name)
        if "first_pass" in self.__dict__:  # an edit changes nothing of it
            made.__dict__["first_pass"] = self.first_pass
        return made

    @property
    def device(self) -> torch.device:
        """Where the network's weights are."""
        for tensor in chain(self.module.parameters(), self.module.buffers()):
            return tensor.device
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Type of the network's weights."""
        for tensor in self.module.parameters():
            if tensor.is_floating_point():
                return tensor.dtype
        return torch.float32

    @property
    def batch_size(self) -> int:
        """Images in a pass that suit the device: on a CPU few, so that feature maps stay near its caches."""
        height, width = self.preprocess.input_size
        return 64 if self.device.type != "cpu" else min(64, max(8, 400_000 // (height * width)))

    def inputs(self, pixels: Tensor) -> Tensor:
        """The network's input for some pixels, on its device and in its type.

        Args:
            pixels: (n, channels, height, width), 0..1.

        Returns:
            A tensor of the same shape.

        Raises:
            ModelError: the network's weights are on the meta device, where nothing can be shown to it.
        """
        if self.device.type == "meta":
            raise ModelError(
                f"expected a network that images can be shown to but the weights of {self.name} are on the meta "
                "device, which holds no contents; load its weights first"
            )
        return self._prepared(pixels).contiguous(memory_format=self.first_pass.layout)

    def _prepared(self, pixels: Tensor) -> Tensor:
        return self.preprocess.normalise(pixels.to(self.device)).to(self.dtype)

    @cached_property
    def first_pass(self) -> FirstPass:
        """Properties found in the first forward passes: input layout, meaning of the output."""
        noise = torch.rand(
            2, self.preprocess.channels, *self.preprocess.input_size, generator=torch.Generator().manual_seed(0)
        )
        noise[1] **= 4  # two images that differ in kind
        return first_pass(self.module, self._prepared(noise), self.classes.names, self.name)

    def example(self) -> Tensor:
        """An input of one grey image, for tracing.

        Returns:
            (1, channels, height, width).
        """
        grey = self._prepared(torch.full((1, self.preprocess.channels, *self.preprocess.input_size), 0.5))
        return grey.contiguous(memory_format=self.first_pass.layout)

    def logits(self, inputs: Tensor) -> Tensor:
        """Run the network as it is.

        Args:
            inputs: as `inputs` makes them.

        Returns:
            (n, classes).
        """
        return self.logits_of(run(self.module, inputs))

    def logits_of(self, output: Any) -> Tensor:
        """The logits of an output of the network.

        Returns:
            (n, classes), float32 or wider; their softmax are the network's confidences, whatever it ends in.

        Raises:
            ModelError: the output holds no table of one logit a class, or several.
        """
        table = unboxed(output, len(self.classes), self.name)
        return as_logits(table, self.first_pass.end, len(self.classes))


def _channels(module: nn.Module) -> int | None:
    """Input channels of the first convolution, if there is one."""
    return next((each.in_channels for each in module.modules() if isinstance(each, nn.Conv2d)), None)


def _network(module: Any) -> nn.Module:
    """The network of a module or classifier."""
    if isinstance(module, nn.Module):
        return unwrapped(module)
    if isinstance(module, torch.export.ExportedProgram):
        raise ModelError(
            "expected a network whose layers can be called one by one but got an exported program; take the network "
            "that it was exported from"
        )
    what = (
        "a state dict"
        if isinstance(module, Mapping)
        else f"the class {module.__name__}, no network made of it"
        if isinstance(module, type)
        else type(module).__name__
    )
    raise ModelError(f"expected a network, a torch.nn.Module, but got {what}; build the network and load its weights")


def _opened(picture: Any) -> Image.Image:
    if isinstance(picture, Image.Image):
        return as_image(picture, alpha=True)
    if isinstance(picture, Path | str):
        return read_image(picture, alpha=True)
    raise ImageError(f"expected an image (PIL) or a file but got {type(picture).__name__} in a list; leave it out")

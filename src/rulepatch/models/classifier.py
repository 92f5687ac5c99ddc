"""A classifier: a network, how pictures are prepared for it, and what its classes are called."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rulepatch.errors import ModelError
from rulepatch.models.classes import Classes
from rulepatch.models.preprocess import Preprocess
from rulepatch.wrappers import unwrapped

__all__ = ["Classifier"]


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network, how pictures are prepared for it, and what its classes are called.

    Attributes:
        module: any module that maps (n, 3, height, width) to logits (n, classes), as a tensor or as `.logits`; of a
            compiled or parallel module the network inside, which has the same weights.
        preprocess: how pictures are prepared; anything that `Preprocess.of` reads.
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
        object.__setattr__(self, "module", unwrapped(module))
        object.__setattr__(self, "preprocess", Preprocess.of(preprocess))
        object.__setattr__(self, "classes", Classes.of(classes))
        object.__setattr__(self, "name", name)

    def with_module(self, module: nn.Module, new_classes: Sequence[str] = ()) -> "Classifier":
        """The same classifier around another network, whose further logits are those of new classes.

        Returns:
            A new classifier.
        """
        classes = Classes((*self.classes.names, *new_classes), self.classes.wordnet) if new_classes else self.classes
        return Classifier(module, self.preprocess, classes, self.name)

    @property
    def device(self) -> torch.device:
        """Where the network's weights are."""
        for tensor in (*self.module.parameters(), *self.module.buffers()):
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
        """Pictures in a pass that suit the device: on a CPU few, so that feature maps stay near its caches."""
        height, width = self.preprocess.input_size
        return 64 if self.device.type != "cpu" else min(64, max(8, 400_000 // (height * width)))

    def inputs(self, pixels: Tensor) -> Tensor:
        """The network's input for some pixels, on its device and in its type.

        Args:
            pixels: (n, 3, height, width), 0..1.

        Returns:
            A tensor of the same shape.
        """
        found = self.preprocess.normalise(pixels.to(self.device)).to(self.dtype)
        return found.contiguous(memory_format=torch.channels_last)  # convolutions are up to twice as fast on a CPU

    def example(self) -> Tensor:
        """An input of one grey image, for tracing.

        Returns:
            (1, 3, height, width).
        """
        return self.inputs(torch.full((1, 3, *self.preprocess.input_size), 0.5))

    def logits(self, inputs: Tensor) -> Tensor:
        """Run the network as it is.

        Args:
            inputs: as `inputs` makes them.

        Returns:
            (n, classes).
        """
        return self.logits_of(self.module(inputs))

    def logits_of(self, output: Any) -> Tensor:
        """The logits in what the network returned.

        Returns:
            (n, classes), float32 or wider.

        Raises:
            ModelError: the output is no table of one logit a class.
        """
        logits = getattr(output, "logits", output)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] != len(self.classes):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(
                f"expected {self.name} to return logits of shape (n, {len(self.classes)}), one for each class name, "
                f"but got {got}; check the class names"
            )
        return logits if logits.dtype == torch.float64 else logits.float()

"""What editors that tune parameters by gradients share: the network from a site on, leaves, and labels to aim at."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rulepatch.editors.problem import Problem
from rulepatch.models.classifier import Classifier
from rulepatch.tracing import capture, tails

__all__ = ["Tail", "labels_of", "leaves_of"]


class Tail(nn.Module):
    """What follows a site, as a differentiable function of parameters.

    Args:
        model: the classifier.
        site: dotted path.
    """

    def __init__(self, model: Classifier, site: str) -> None:
        super().__init__()
        self.network, self._logits_of = model.module, model.logits_of
        self._plan = tails.plan_suffix(capture.trace(model.module, model.example()), site)

    def start(self, inputs: Tensor) -> tails.Checkpoint:
        """What comes before the site, for some inputs.

        Returns:
            A checkpoint, the same whatever is tuned.
        """
        _, (start,) = capture.checkpoint(self.network, [self._plan], inputs)
        return start

    def forward(self, start: tails.Checkpoint) -> Tensor:
        """Return the logits, (n, classes)."""
        return self._logits_of(capture.run_suffix(self.network, self._plan, start, gradients=torch.is_grad_enabled()))

    def run(self, leaves: Mapping[str, Tensor], start: tails.Checkpoint) -> Tensor:
        """The logits with other parameters in the place of the network's own.

        Args:
            leaves: the parameters, by dotted path.
            start: what comes before the site.

        Returns:
            (n, classes).
        """
        named = {f"network.{path}": leaf for path, leaf in leaves.items()}
        logits: Tensor = torch.func.functional_call(self, named, (start,))
        return logits


def leaves_of(module: nn.Module, paths: Sequence[str]) -> dict[str, Tensor]:
    """Copies of parameters, to be tuned.

    Args:
        module: the network.
        paths: dotted paths; those that the module does not have are passed over.

    Returns:
        Tensors that ask for gradients, by path.
    """
    own = dict(module.named_parameters())
    return {path: own[path].detach().clone().requires_grad_() for path in paths if path in own}


def labels_of(problem: Problem) -> Tensor:
    """The exemplars' labels; what the model says of the original image where there is none.

    Returns:
        (n,), class indices.
    """
    model = problem.model
    with capture.inference(model.module):
        said = model.logits(problem.originals).argmax(dim=1).tolist()
    given = [exemplar.label for exemplar in problem.exemplars]
    labels = [now if label is None else model.classes.index(label) for label, now in zip(given, said, strict=True)]
    return torch.tensor(labels, device=model.device)

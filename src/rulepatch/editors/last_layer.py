"""Retraining the last layer alone, as a baseline (after Kirichenko et al. 2023)."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rulepatch.core.changes import Dense
from rulepatch.data.stream import ImageStream
from rulepatch.editors.problem import Problem
from rulepatch.editors.registry import editor
from rulepatch.editors.tuning import Tail, labels_of, leaves_of
from rulepatch.errors import SettingError
from rulepatch.forward import gradients
from rulepatch.methods import LastLayer
from rulepatch.progress import Bar
from rulepatch.tracing.sites import SiteList

__all__ = ["last_layer"]


def _the_last(site_list: SiteList, paths: Sequence[str], _: LastLayer) -> list[str]:
    last = site_list.sites[-1].path
    if list(paths) not in ([], [last]):
        raise SettingError(f"expected the last layer, {last}, but got {', '.join(paths)}; leave the site out")
    return [last]


@editor(LastLayer, sites=_the_last)
def last_layer(problem: Problem, how: LastLayer) -> list[Dense]:
    """Retrain the last layer on the edited images and on the reference set (after Kirichenko et al. 2023).

    The loss is the cross-entropy of the edited images with the original labels, plus that of reference images with
    what the model says of them now, plus a ridge, minimised by L-BFGS from today's weights. Deep feature reweighting
    balances groups that are known; here the exemplars are one group and the reference set is the other.

    Args:
        problem: the problem; an exemplar without a label counts as what the model says of it.
        how: the settings.

    Returns:
        Dense changes of the last layer.

    Raises:
        SettingError: only statistics of the reference set are at hand.
    """
    model, (last,) = problem.model, problem.paths
    images = problem.images(how.name).sample(how.pictures, seed=problem.run.seed)
    tail = Tail(model, last)
    starts = [tail.start(problem.edited)]
    stream = ImageStream(images, model.preprocess, progress="features" if problem.run.progress else None)
    starts += [tail.start(model.inputs(batch.pixels)) for batch in stream]
    with torch.no_grad():
        now = [tail(start).argmax(dim=1) for start in starts]
    now[0] = labels_of(problem)
    leaves = leaves_of(model.module, [f"{last}.{name}" for name in ("weight", "bias")])
    before = {path: leaf.detach().clone() for path, leaf in leaves.items()}

    def loss() -> Tensor:
        logits = [tail.run(leaves, start) for start in starts]
        losses = [F.cross_entropy(*pair, reduction="sum") for pair in zip(logits, now, strict=True)]
        pairs = [(leaf, before[path]) for path, leaf in leaves.items()]
        moved = [(leaf - was).square().sum() / was.square().sum() for leaf, was in pairs]
        kept = torch.stack(losses[1:]).sum() / len(images)
        return how.pull * losses[0] / len(now[0]) + kept + how.ridge * torch.stack(moved).sum()

    _minimise(loss, leaves, how.steps, progress=problem.run.progress)
    return [Dense(path, (leaf.detach() - before[path]).float().cpu(), how.strength) for path, leaf in leaves.items()]


def _minimise(loss: Callable[[], Tensor], leaves: Mapping[str, Tensor], steps: int, *, progress: bool) -> None:
    """L-BFGS; leaves keep their best values."""
    optimiser = torch.optim.LBFGS(list(leaves.values()), max_iter=max(steps, 1), line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        value = loss()
        for leaf, gradient in zip(leaves.values(), gradients(value, list(leaves.values())), strict=True):
            leaf.grad = gradient
        bar.update()
        return value

    if steps:
        most = optimiser.param_groups[0]["max_eval"]  # the line search looks several times at most steps
        with torch.enable_grad(), Bar(most, "looks", unit="look", shown=progress) as bar:
            optimiser.step(closure)

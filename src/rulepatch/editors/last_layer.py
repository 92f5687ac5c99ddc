"""Retraining the last layer alone, as a baseline (after Kirichenko et al. 2023)."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from rulepatch.core.changes import Dense
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.core.model_sites import sites_of
from rulepatch.data.cache import Cache
from rulepatch.data.folders import ImageSet
from rulepatch.data.stream import ImageStream
from rulepatch.editors.problem import Reference, Settings, assemble, pose
from rulepatch.editors.registry import editor
from rulepatch.editors.tuning import Tail, check_stepping, labels_of, leaves_of
from rulepatch.errors import SettingError
from rulepatch.forward import gradients
from rulepatch.models.classifier import Classifier
from rulepatch.progress import Bar
from rulepatch.timing import stretch

__all__ = ["last_layer"]


@editor("last-layer")
def last_layer(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    *,
    reference: Reference,
    site: str | Sequence[str] | None = None,
    strength: float = 1.0,
    steps: int = 50,
    pull: float = 1.0,
    ridge: float = 0.1,
    pictures: int = 500,
    seed: int = 0,
    cache: Cache | Literal["user"] | None = "user",
    progress: bool = True,
) -> Edit:
    """Retrain the last layer on the edited pictures and on the reference set (after Kirichenko et al. 2023).

    The loss is the cross-entropy of the edited pictures with the original labels, plus that of reference pictures with
    what the model says of them now, plus a ridge, minimised by
    L-BFGS from today's weights. Deep feature reweighting balances groups
    that are known; here the exemplars are one group and the reference set is the other.

    Args:
        model: the classifier; it is not changed.
        exemplars: pictures and their edited counterparts; one without a label counts as what the model says of it.
        reference: pictures whose treatment should stay.
        site: not needed: the last layer is found; given, it must be that.
        strength: the change is scaled by it: 1 is what L-BFGS found, less interpolates.
        steps: of L-BFGS.
        pull: weight of the exemplars' group beside the reference set's, above 0.
        ridge: of the change, relative to the parameters' own squared norm, above 0; exemplars alone can be separated.
        pictures: of the reference set at most; chosen by the seed.
        seed: of that choice.
        cache: where statistics are kept; the user's own cache by default, None for nowhere.
        progress: whether to show bars.

    Returns:
        The edit: dense changes of the last layer.

    Raises:
        ExemplarError: no exemplars, or one that does not fit the model.
        SettingError: a setting out of range.
        SiteError: the last layer cannot be edited.
    """
    check_stepping(steps)
    if not (0 < pull < math.inf and 0 < ridge < math.inf and pictures >= 1):
        raise SettingError(
            f"expected a pull and a ridge above 0 and at least 1 picture but got {pull}, {ridge} and {pictures}"
        )
    last = sites_of(model).sites[-1].path
    if site not in (None, last, [last], (last,)):
        raise SettingError(f"expected the last layer, {last}, but got {site}; leave the site out")
    settings = Settings(last, strength=strength, seed=seed)
    problem = pose(model, exemplars, settings, reference=reference, cache=cache, progress=progress)
    if isinstance(reference, Mapping):
        raise SettingError("expected reference pictures but got statistics of them; last-layer looks at the pictures")
    images = ImageSet.of(reference, model.classes).sample(pictures, seed=seed)
    with stretch("solve"):
        tail = Tail(model, last)
        starts = [tail.start(problem.edited)]
        stream = ImageStream(images, model.preprocess, progress="features" if progress else None)
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
            return pull * losses[0] / len(now[0]) + kept + ridge * torch.stack(moved).sum()

        _minimise(loss, leaves, steps, progress=progress)
        changes = [Dense(path, (leaf.detach() - before[path]).float().cpu(), strength) for path, leaf in leaves.items()]
    own = {"steps": steps, "pull": pull, "ridge": ridge, "pictures": pictures}
    return assemble(problem, changes, method="last-layer", own=own)


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

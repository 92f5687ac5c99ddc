"""ROC curves before and after an edit."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rulepatch.escaping import for_figure
from rulepatch.evaluation.metrics import Roc, balanced_weights, roc
from rulepatch.evaluation.outcomes import Outcomes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_rocs", "rocs_of"]


def rocs_of(found: Outcomes, target: Sequence[int]) -> tuple[Roc | None, Roc | None]:
    """ROC curves of some classes against all others before and after an edit, weighted equally by class.

    Args:
        found: labelled outcomes for which the probabilities of exactly these classes were kept.
        target: the classes.

    Returns:
        The curves before and after; None without images of the classes, or without others.
    """
    positive, weights = np.isin(found.labels, list(target)), balanced_weights(found.labels)
    scores = [each.watched.sum(axis=1) for each in (found.first, found.second)]
    return roc(scores[0], positive, weights), roc(scores[1], positive, weights)


def draw_rocs(curves: Mapping[str, tuple[Roc | None, Roc | None]]) -> "Figure":
    """Plot the curves before and after an edit, side by side.

    Args:
        curves: by the name of the set.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(curves), 3.4), layout="constrained")
    for axes, (name, pair) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="lightgrey", linewidth=1)
        for curve, when, colour in zip(pair, ("before", "after"), ("#c22f3d", "#17804d"), strict=True):
            if curve is not None:
                label = f"{when}: AUC {curve.area:.3f}"
                axes.step(curve.false_positives, curve.true_positives, where="post", label=label, color=colour)
        axes.set(title=for_figure(name), xlabel="false positives", xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
        axes.legend(loc="lower right", fontsize=8) if any(pair) else axes.text(0.5, 0.5, "not defined", ha="center")
    figure.axes[0].set_ylabel("true positives")
    return figure

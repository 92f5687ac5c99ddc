"""First-order steps from a solution that is good already."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rulepatch.progress import Bar

__all__ = ["minimise"]


def minimise(
    unknown: Sequence[Tensor],
    evaluate: Callable[[Sequence[Tensor]], tuple[Tensor, Sequence[Tensor]]],
    *,
    steps: int,
    learning_rate: float,
    title: str,
    progress: bool,
) -> list[Tensor]:
    """Take Adam steps with a cosine schedule, and keep the best that was met.

    Args:
        unknown: where to start, leaves that ask for gradients; they are changed.
        evaluate: errors, () or one for each last entry of every unknown, and the gradient for each unknown.
        steps: how many, at least 0.
        learning_rate: at the start.
        title: of the progress bar.
        progress: whether to show it.

    Returns:
        The unknowns of least error, each last entry by itself where each has its own error.
    """
    optimiser = torch.optim.Adam(list(unknown), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    best = [each.detach().clone() for each in unknown]
    least = best[0].new_full((), torch.inf)
    with torch.enable_grad(), Bar(steps + 1, title, shown=progress) as bar:
        for _ in range(steps + 1):
            errors, gradients = evaluate(unknown)
            improved = errors < least
            least = torch.where(improved, errors, least)
            best = [torch.where(improved, each.detach(), kept) for each, kept in zip(unknown, best, strict=True)]
            for each, gradient in zip(unknown, gradients, strict=True):
                each.grad = gradient
            optimiser.step()
            schedule.step()
            bar.update()
    return best

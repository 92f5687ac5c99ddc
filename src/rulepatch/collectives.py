"""Adding up tensors over the processes of a torch.distributed group.

One operation is enough: what a single process has is added to the zeros of the others. Processes work as one only where
they say so, as one that a program trains with others may well be the only one to make an edit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

from rulepatch.errors import WorkerError, reason_of

__all__ = ["add_up", "as_one", "rank", "size"]

_as_one: ContextVar[bool] = ContextVar("as_one", default=False)


@contextmanager
def as_one() -> Iterator[None]:
    """The processes of the group work as one here: what they add up is all of theirs, and each must do the same.

    Yields:
        Nothing.
    """
    before = _as_one.set(True)
    try:
        yield
    finally:
        _as_one.reset(before)


def size() -> int:
    """How many processes work as one; 1 if there is no process group, or outside of `as_one`.

    Returns:
        At least 1.

    Examples:
        >>> size(), rank()
        (1, 0)
    """
    from torch import distributed

    together = _as_one.get() and distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if together else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    from torch import distributed

    return distributed.get_rank() if size() > 1 else 0


def add_up(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes; each of them must call it, with the same shape and type.

    Args:
        tensor: any; unchanged.

    Returns:
        The sum, on the tensor's device. The tensor itself if this process is alone.

    Raises:
        WorkerError: another process is gone, or did not come in time.

    Examples:
        >>> import torch
        >>> add_up(torch.ones(2))
        tensor([1., 1.])
    """
    from torch import distributed

    if size() == 1:
        return tensor
    gpu = distributed.get_backend() == "nccl"  # which takes tensors of this process's GPU alone
    total = tensor.detach().to("cuda" if gpu else "cpu", copy=True).contiguous()
    try:
        distributed.all_reduce(total)
    except RuntimeError as error:
        raise WorkerError(
            f"expected {size()} processes to work together but one is gone or late ({reason_of(error)}); "
            "see its own message, and start them again"
        ) from None
    return total.to(tensor.device)

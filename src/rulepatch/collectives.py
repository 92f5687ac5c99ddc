"""All-reduce of tensors over a torch.distributed process group.

A sum is the only collective: to broadcast, one rank adds its tensor to the zeros of the others. Collectives span the
process group only within `group_scope`, so that a program that trains on several ranks may edit on one of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

from rulepatch.errors import WorkerError, reason_of

__all__ = ["all_reduce_sum", "group_scope", "rank", "size"]

_in_group: ContextVar[bool] = ContextVar("_in_group", default=False)


@contextmanager
def group_scope() -> Iterator[None]:
    """Scope in which collectives span the process group; every rank must enter it.

    Yields:
        Nothing.
    """
    before = _in_group.set(True)
    try:
        yield
    finally:
        _in_group.reset(before)


def size() -> int:
    """World size; 1 without a process group, or outside of `group_scope`.

    Returns:
        At least 1.

    Examples:
        >>> size(), rank()
        (1, 0)
    """
    from torch import distributed

    together = _in_group.get() and distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if together else 1


def rank() -> int:
    """Rank of this process; 0 outside a group."""
    from torch import distributed

    return distributed.get_rank() if size() > 1 else 0


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum a tensor over all ranks; every rank must call it, with the same shape and dtype.

    Args:
        tensor: any; unchanged.

    Returns:
        The sum, on the tensor's device; the tensor itself if there is a single process.

    Raises:
        WorkerError: another rank has exited or timed out.

    Examples:
        >>> import torch
        >>> all_reduce_sum(torch.ones(2))
        tensor([1., 1.])
    """
    from torch import distributed

    if size() == 1:
        return tensor
    gpu = distributed.get_backend() == "nccl"  # nccl reduces only tensors on this rank's GPU
    total = tensor.detach().to("cuda" if gpu else "cpu", copy=True).contiguous()
    try:
        distributed.all_reduce(total)
    except RuntimeError as error:
        raise WorkerError(
            f"expected {size()} processes to work together but one is gone or late ({reason_of(error)}); "
            "see its own message, and start them again"
        ) from None
    return total.to(tensor.device)

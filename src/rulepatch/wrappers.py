"""Networks inside other modules, compiled or spread over several devices; and networks in evaluation mode."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["in_evaluation", "unwrapped"]


def unwrapped(module: nn.Module) -> nn.Module:
    """The network that a wrapper runs: `torch.compile`, `DataParallel`, `DistributedDataParallel`.

    It has the same weights, so that what is changed in it is changed in the wrapper, too.

    Args:
        module: any module.

    Returns:
        The network itself; the module if it is no wrapper.

    Examples:
        >>> net = nn.Linear(2, 2)
        >>> unwrapped(nn.DataParallel(net)) is net
        True
    """
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif isinstance(original := getattr(module, "_orig_mod", None), nn.Module):  # what torch.compile returns
            module = original
        else:
            return module


@contextmanager
def in_evaluation(module: nn.Module) -> Iterator[None]:
    """Run a block with a network in evaluation mode, then put the training flag of each of its modules back.

    Args:
        module: any module.

    Yields:
        Nothing.

    Examples:
        >>> net = nn.Sequential(nn.Dropout(), nn.Linear(2, 2).eval())
        >>> with in_evaluation(net):
        ...     net[0].training
        False
        >>> net[0].training, net[1].training
        (True, False)
    """
    flags = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, training in flags:
            each.training = training

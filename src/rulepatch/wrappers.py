"""Networks inside other modules, compiled or spread over several devices, and copies of networks."""

import copy

from torch import nn

from rulepatch.errors import ModelError, reason_of

__all__ = ["copied", "unwrapped"]


def unwrapped(module: nn.Module) -> nn.Module:
    """The network that a wrapper runs: `torch.compile`, `DataParallel`, `DistributedDataParallel`.

    It shares its weights with the wrapper.

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


def copied(module: nn.Module) -> nn.Module:
    """A copy of a network that shares nothing with it.

    Args:
        module: the network.

    Raises:
        ModelError: it cannot be copied.
    """
    try:
        found = copy.deepcopy(module)
    except Exception as error:  # of whatever the module holds besides its weights
        raise ModelError(
            f"expected a network that can be copied but {type(module).__name__} cannot ({reason_of(error)}); use "
            "Edit.applied, which edits the network itself for a while"
        ) from error
    if not {id(each) for each in module.modules()}.isdisjoint(id(each) for each in found.modules()):
        raise ModelError(
            f"expected a network that can be copied but a copy of {type(module).__name__} has the same layers; use "
            "Edit.applied, which edits the network itself for a while"
        )
    return found

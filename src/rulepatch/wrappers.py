"""Networks inside other modules: compiled, or spread over several devices."""

from torch import nn

__all__ = ["unwrapped"]


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

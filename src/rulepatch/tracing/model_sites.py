"""The sites of a classifier, cached for the current state of its network."""

from typing import Any, Protocol
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rulepatch.tracing.sites import SiteList, find_sites

__all__ = ["sites_of"]


class Model(Protocol):
    """A network with an input that it takes."""

    @property
    def module(self) -> nn.Module: ...
    def example(self) -> Tensor: ...


_KNOWN: WeakKeyDictionary[Model, tuple[list[Any], SiteList]] = WeakKeyDictionary()


def sites_of(model: Model) -> SiteList:
    """Find every site at which a classifier can be edited; cached.

    A traced forward pass takes as long as several plain ones, and an edit needs the sites more than once.

    Args:
        model: the classifier. If its network has changed since (other layers or parameters, hooks, attributes of its
            modules that are numbers, strings or functions), it is traced again; changes of the values of weights do
            not matter.

    Examples:
        >>> from rulepatch.models.registry import load_model
        >>> model = load_model("playground")
        >>> sites_of(model) is sites_of(model)
        True
    """
    state = _state_of(model.module)
    known = _KNOWN.get(model)
    if known is None or known[0] != state:
        known = _KNOWN[model] = state, find_sites(model.module, model.example())
    return known[1]


def _state_of(network: nn.Module) -> list[Any]:
    """State that determines a network's sites: its modules and their attributes, not the values of its tensors."""
    modules = [
        (
            path,
            module,
            {name: value for name, value in vars(module).items() if name != "training" and _is_plain(value)},
            [tuple(hooks) for hooks in (module._forward_pre_hooks, module._forward_hooks)],
        )
        for path, module in network.named_modules(remove_duplicate=False)
    ]
    tensors = [
        (path, id(tensor), tensor.dtype, None if is_lazy(tensor) else tensor.shape, tensor.device)
        for path, tensor in network.named_parameters(remove_duplicate=False)
    ]
    return [modules, tensors]


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or callable(value) or isinstance(value, bool | int | float | str)

"""The registry of editors, by the names that the command line knows them by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from rulepatch.core.changes import WeightChange
from rulepatch.methods import Method
from rulepatch.registry import Registry

__all__ = ["Editor", "Solution", "editor", "editor_named", "editors"]

Function = TypeVar("Function", bound=Callable[..., Any])


class Solution(NamedTuple):
    """Changes, and what there is to say of them.

    Attributes:
        changes: of the model.
        notes: for the edit's provenance, as JSON.
    """

    changes: Sequence[WeightChange]
    notes: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Editor:
    """A way to make an edit.

    Attributes:
        settings: class of its settings; their name is its own.
        solve: finds the changes: a function of a `Problem` and the settings.
        check: refuses what cannot be solved, before the reference set is read: a function of the model, what the sites
            see of the exemplars, and the settings.
        sites: chooses the sites, where it is not the caller who does: a function of the site list of the model, the
            sites that were asked for, and the settings.
    """

    settings: type[Method]
    solve: Callable[..., Sequence[WeightChange] | Solution] = field(repr=False)
    check: Callable[..., None] | None = field(default=None, repr=False)
    sites: Callable[..., Sequence[str]] | None = field(default=None, repr=False)


def editor(
    settings: type[Method],
    *,
    check: Callable[..., None] | None = None,
    sites: Callable[..., Sequence[str]] | None = None,
) -> Callable[[Function], Function]:
    """Register a function of a problem and settings that returns changes; see `Editor`."""
    return _EDITORS.register(settings.name, lambda solve: Editor(settings, solve, check, sites))


_EDITORS = Registry[Editor](
    "method",
    {
        "rewrite": "rulepatch.editors.rewrite",
        "projected-adam": "rulepatch.editors.projected_adam",
        "finetune-local": "rulepatch.editors.finetune",
        "finetune-global": "rulepatch.editors.finetune",
        "last-layer": "rulepatch.editors.last_layer",
        "dense": "rulepatch.editors.dense",
        "inverse-transpose": "rulepatch.inverse.editors",
        "inverse-pinv": "rulepatch.inverse.editors",
        "inverse-fourier": "rulepatch.inverse.editors",
        "nothing": "rulepatch.editors.nothing",
    },
    group="rulepatch.editors",
)


def editors() -> list[str]:
    """Names of all editors, sorted."""
    return _EDITORS.names()


def editor_named(name: str) -> Editor:
    """The editor of a name.

    Raises:
        SettingError: there is none of that name.

    Examples:
        >>> editor_named("rewrite").settings().rank
        1
    """
    return _EDITORS[name]

"""The registry of editors: by the names that the command line knows them by."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from rulepatch.core.edit import Edit
from rulepatch.errors import SettingError

__all__ = ["Editor", "editor", "editor_named", "editors", "fitting"]

Editor = Callable[..., Edit]
Registered = TypeVar("Registered", bound=Editor)

_EDITORS: dict[str, Editor] = {}
_FILES = {
    "rewrite": "rulepatch.editors.rewrite",
    "projected-adam": "rulepatch.editors.projected_adam",
    "finetune-local": "rulepatch.editors.finetune",
    "finetune-global": "rulepatch.editors.finetune",
    "last-layer": "rulepatch.editors.last_layer",
    "dense": "rulepatch.editors.dense",
    "nothing": "rulepatch.editors.nothing",
}


def editor(name: str) -> Callable[[Registered], Registered]:
    """Register a way to make an edit under a name.

    Returns:
        A decorator.
    """

    def register(function: Registered) -> Registered:
        _EDITORS[name] = function
        return function

    return register


def editors() -> list[str]:
    """Names of all editors.

    Returns:
        Names, sorted.
    """
    return sorted({*_EDITORS, *_FILES})


def editor_named(name: str) -> Editor:
    """The editor of a name.

    Returns:
        A function of a classifier, exemplars and keyword settings.

    Raises:
        SettingError: there is none of that name.

    Example:
        >>> editor_named("rewrite").__name__
        'rewrite'
    """
    if name not in _EDITORS and name in _FILES:
        importlib.import_module(_FILES[name])
    if name not in _EDITORS:
        raise SettingError(f"expected a method but got {name!r}; the methods are {', '.join(editors())}")
    return _EDITORS[name]


def fitting(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were given, if an editor takes them all.

    Args:
        name: of the editor.
        settings: None stands for a setting that was not given.

    Returns:
        The settings that are not None.

    Raises:
        SettingError: a setting was given that the editor does not take.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    taken = set(inspect.signature(editor_named(name)).parameters)
    for key in given:
        if key not in taken:
            raise SettingError(
                f"expected settings of the method {name} but got {key}, which it does not take; leave it out"
            )
    return given

"""The registry of editors: by the names that the command line knows them by."""

import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec

from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.editors.judging import judged, warn_of
from rulepatch.errors import ModelError, SettingError, nearest
from rulepatch.models.classifier import Classifier
from rulepatch.text import read_pairs

__all__ = ["Editor", "editor", "editor_named", "editors", "fitting", "read_settings", "unjudged"]

Editor = Callable[..., Edit]
Parameters = ParamSpec("Parameters")

_SWITCHES = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
_EDITORS: dict[str, Editor] = {}
_FILES = {
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
}


def editor(name: str) -> Callable[[Callable[Parameters, Edit]], Callable[Parameters, Edit]]:
    """Register a way to make an edit under a name.

    Whoever calls it is told what the model says of the exemplars: it stands in the edit, and a warning says if the edit
    does nothing for them, or if they show no failure.
    """

    def register(function: Callable[Parameters, Edit]) -> Callable[Parameters, Edit]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def telling(*args: Parameters.args, **settings: Parameters.kwargs) -> Edit:
            given = signature.bind(*args, **settings)
            _check_kinds(given.arguments)
            edit = judged(given.arguments["model"], function(*given.args, **given.kwargs), given.arguments["exemplars"])
            warn_of(edit)
            return edit

        _EDITORS[name] = telling
        return telling

    return register


def _check_kinds(given: dict[str, Any]) -> None:
    """Refuse what is no classifier, and take one exemplar for a list of one."""
    model = given["model"]
    if not isinstance(model, Classifier):
        raise ModelError(
            f"expected a rulepatch.Classifier but got {type(model).__name__}; make one: "
            "rulepatch.Classifier(network, preprocess, classes)"
        )
    if isinstance(given["exemplars"], Exemplar):
        given["exemplars"] = [given["exemplars"]]


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

    Examples:
        >>> editor_named("rewrite").__name__
        'rewrite'
    """
    if name not in _EDITORS and name in _FILES:
        importlib.import_module(_FILES[name])
    if name not in _EDITORS:
        raise SettingError(f"expected a method but got {name!r}; the methods are {', '.join(editors())}")
    return _EDITORS[name]


def unjudged(name: str) -> Editor:
    """The editor of a name by itself, for those who try many edits and measure them by other means.

    Returns:
        The function without a look at what the model says of the exemplars, and without warnings of it.

    Raises:
        SettingError: there is none of that name.
    """
    return inspect.unwrap(editor_named(name))


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


def read_settings(name: str, texts: Iterable[str]) -> dict[str, Any]:
    """Settings of an editor as people write them on a command line.

    Args:
        name: of the editor.
        texts: each `NAME=VALUE`.

    Returns:
        Values of the types that the editor's defaults have.

    Raises:
        SettingError: a setting that the editor does not take, or a value of another type.

    Examples:
        >>> read_settings("dense", ["balance=3", "whole-image=yes"])
        {'balance': 3.0, 'whole_image': True}
    """
    parameters = inspect.signature(editor_named(name)).parameters
    found = {}
    for written, text in read_pairs(texts).items():
        key = written.replace("-", "_")
        default = parameters[key].default if key in parameters else None
        if not isinstance(default, bool | int | float | str):
            options = [each for each, p in parameters.items() if isinstance(p.default, bool | int | float | str)]
            raise SettingError(
                f"expected a setting of the method {name} but got {written!r}; the nearest are {nearest(key, options)}"
            )
        try:
            found[key] = _SWITCHES[text.lower()] if isinstance(default, bool) else type(default)(text)
        except (KeyError, ValueError):
            kind = "yes or no" if isinstance(default, bool) else f"a value like {default}"
            raise SettingError(f"expected {kind} for {written} but got {text!r}") from None
    return found

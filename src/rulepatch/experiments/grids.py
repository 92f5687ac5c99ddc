"""The methods that are compared: an editor each, with what is fixed and what is tried of its settings (paper 4)."""

import inspect
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Literal

from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.cache import Cache
from rulepatch.data.folders import ImageSet
from rulepatch.editors.registry import editor_named, fitting, unjudged
from rulepatch.errors import SettingError, nearest
from rulepatch.models.classifier import Classifier

__all__ = [
    "GRIDS",
    "METHODS",
    "STRENGTHS",
    "Settings",
    "check_method",
    "edit_by",
    "every_combination",
    "grid_of",
    "strengths_of",
    "takes_site",
]

Settings = Mapping[str, Any]

METHODS: Mapping[str, tuple[str, Settings]] = {
    "nothing": ("nothing", {}),
    "rewrite": ("rewrite", {}),
    "rewrite-mask": ("rewrite", {"whole_image": True}),
    "projected-adam": ("projected-adam", {}),
    "projected-adam-mask": ("projected-adam", {"whole_image": True}),
    "projected-adam-proj": ("projected-adam", {"projected": False}),
    "finetune-local": ("finetune-local", {}),
    "finetune-local+proj": ("finetune-local", {"projected": True}),
    "finetune-global": ("finetune-global", {}),
    "finetune-global+proj": ("finetune-global", {"projected": True}),
    "last-layer": ("last-layer", {}),
    "dense": ("dense", {}),
}
"""What can be compared: an editor, and what is fixed of its settings. "-mask" and "-proj" are the paper's ablations."""


def every_combination(**options: Sequence[Any]) -> list[Settings]:
    """Every combination of some values of each option.

    Examples:
        >>> every_combination(rank=(1, 3), gate=("none",))
        [{'rank': 1, 'gate': 'none'}, {'rank': 3, 'gate': 'none'}]
    """
    return [dict(zip(options, chosen, strict=True)) for chosen in product(*options.values())]


_STEPPED = [{"learning_rate": 10.0**-power, "steps": 200} for power in (1, 2, 3, 4)]

GRIDS: Mapping[str, Mapping[str, Sequence[Settings]]] = {
    "default": {
        "nothing": [{}],
        "rewrite": every_combination(rank=(1, 3), gate=("none", 0.9, 0.98)),
        "projected-adam": every_combination(rank=(1, 3), learning_rate=(1e-3, 1e-4), steps=(2000,)),
        "finetune-local": _STEPPED,
        "finetune-global": _STEPPED,
        "last-layer": every_combination(ridge=(0.1, 1.0, 10.0)),
        "dense": every_combination(balance=(0.1, 1.0, 10.0)),
    },
    "paper": {
        "projected-adam": [
            {"learning_rate": 1e-3, "steps": 10_000},
            {"learning_rate": 1e-4, "steps": 20_000},
            {"learning_rate": 1e-5, "steps": 40_000},
            {"learning_rate": 1e-6, "steps": 80_000},
            {"learning_rate": 1e-7, "steps": 80_000},
        ],
    },
}
"""Hyper-parameters that are tried, by the name of the grid and the editor; "paper" is that of paper 4 and A.6."""

STRENGTHS: Mapping[str, Sequence[float]] = {
    "rewrite": (0.25, 0.5, 1, 2, 3),
    "dense": (0.25, 0.5, 1, 2),
    "nothing": (1,),
}
"""Strengths that are tried of every edit made; those of other editors interpolate with the untouched model."""

INTERPOLATED = (0.25, 0.5, 1)


def check_method(method: str) -> None:
    """Make sure that there is a method of a name.

    Raises:
        SettingError: there is none.
    """
    if method not in METHODS:
        raise SettingError(
            f"expected methods to compare but got {method!r}; the nearest are {nearest(method, METHODS)}"
        )


def grid_of(method: str, grid: str) -> Sequence[Settings]:
    """The settings of a method that are tried.

    Args:
        method: a key of `METHODS`.
        grid: a key of `GRIDS`.

    Raises:
        SettingError: there is no such grid of the method.
    """
    name, _ = METHODS[method]
    if grid not in GRIDS or name not in GRIDS[grid]:
        known = [each for each, methods in GRIDS.items() if name in methods]
        raise SettingError(f"expected a grid of {method} but got {grid!r}; there is {', '.join(known)}")
    return GRIDS[grid][name]


def strengths_of(method: str) -> Sequence[float]:
    """The strengths that are tried of every edit that a method makes."""
    return STRENGTHS.get(METHODS[method][0], INTERPOLATED)


def takes_site(method: str) -> bool:
    """Whether a method edits where it is told to; the others find their own place.

    Examples:
        >>> takes_site("rewrite"), takes_site("last-layer")
        (True, False)
    """
    site = inspect.signature(editor_named(METHODS[method][0])).parameters.get("site")
    return site is not None and site.default is inspect.Parameter.empty


def edit_by(
    method: str,
    model: Classifier,
    exemplars: Sequence[Exemplar],
    *,
    settings: Settings,
    sites: Sequence[str],
    reference: ImageSet,
    seed: int = 0,
    cache: Cache | Literal["user"] | None = "user",
    progress: bool = True,
) -> Edit:
    """Make an edit by a method.

    Args:
        method: a key of `METHODS`.
        model: the classifier; it is not changed.
        exemplars: what to learn from.
        settings: of its editor, besides those that are fixed.
        sites: dotted paths; a method that takes one site alone gets the first, one that takes none is not told.
        reference: pictures whose treatment should stay.
        seed: of the method.
        cache: where statistics are kept; the user's own cache by default, None for nowhere.
        progress: whether to show bars.

    Raises:
        SettingError: a setting that the editor does not take, or out of its range.
    """
    name, fixed = METHODS[method]
    where = {"site": sites[0] if name == "finetune-global" else list(sites)} if takes_site(method) else {}
    given = fitting(name, {**where, **settings, **fixed, "seed": seed})
    return unjudged(name)(model, exemplars, reference=reference, cache=cache, progress=progress, **given)

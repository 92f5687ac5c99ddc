"""The methods that are compared: an editor each, with what is fixed and what is tried of its settings (paper 4)."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.run import Run
from rulepatch.editors.edit import solve
from rulepatch.editors.problem import Reference, build_problem
from rulepatch.errors import SettingError, nearest
from rulepatch.methods import (
    Dense,
    FineTuneGlobal,
    FineTuneLocal,
    LastLayer,
    Method,
    NoEdit,
    ProjectedAdam,
    Rewrite,
)
from rulepatch.models.classifier import Classifier

__all__ = [
    "GRIDS",
    "METHODS",
    "STRENGTHS",
    "Tried",
    "check_method",
    "edit_by",
    "every_combination",
    "grid_of",
    "strengths_of",
    "takes_site",
    "tried",
]

Tried = Mapping[str, Any]
"""Settings of a method by name, as JSON."""

METHODS: Mapping[str, Method] = {
    "nothing": NoEdit(),
    "rewrite": Rewrite(),
    "rewrite-mask": Rewrite(whole_image=True),
    "projected-adam": ProjectedAdam(),
    "projected-adam-mask": ProjectedAdam(whole_image=True),
    "projected-adam-proj": ProjectedAdam(projected=False),
    "finetune-local": FineTuneLocal(),
    "finetune-local+proj": FineTuneLocal(projected=True),
    "finetune-global": FineTuneGlobal(),
    "finetune-global+proj": FineTuneGlobal(projected=True),
    "last-layer": LastLayer(),
    "dense": Dense(),
}
"""What can be compared: methods, with what is fixed of their settings; "-mask" and "-proj" as in the paper."""


def every_combination(**options: Sequence[Any]) -> list[dict[str, Any]]:
    """Every combination of some values of each option.

    Examples:
        >>> every_combination(rank=(1, 3), gate=("none",))
        [{'rank': 1, 'gate': 'none'}, {'rank': 3, 'gate': 'none'}]
    """
    return [dict(zip(options, chosen, strict=True)) for chosen in product(*options.values())]


_STEPPED = [{"learning_rate": 10.0**-power, "steps": 200} for power in (1, 2, 3, 4)]

GRIDS: Mapping[str, Mapping[str, Sequence[Tried]]] = {
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
"""Settings that are tried, by the name of the grid and the method; "paper" is that of paper 4 and A.6."""

STRENGTHS: Mapping[str, Sequence[float]] = {
    "rewrite": (0.25, 0.5, 1, 2, 3),
    "dense": (0.25, 0.5, 1, 2),
    "nothing": (1,),
}
"""Strengths that are tried of every edit made; those of other methods interpolate with the untouched model."""

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


def grid_of(method: str, grid: str) -> Sequence[Tried]:
    """The settings of a method that are tried.

    Args:
        method: a key of `METHODS`.
        grid: a key of `GRIDS`.

    Raises:
        SettingError: there is no such grid of the method.
    """
    name = METHODS[method].name
    if grid not in GRIDS or name not in GRIDS[grid]:
        known = [each for each, methods in GRIDS.items() if name in methods]
        raise SettingError(f"expected a grid of {method} but got {grid!r}; there is {', '.join(known)}")
    return GRIDS[grid][name]


def tried(method: str, settings: Mapping[str, Any]) -> Tried:
    """Settings of a method as they are kept in tables and jobs: checked, as JSON, "none" by its name.

    Args:
        method: a key of `METHODS`.
        settings: by name; what is fixed of the method cannot be set.

    Raises:
        SettingError: a setting that the method does not take, or out of its range.

    Examples:
        >>> tried("rewrite", {"rank": "3", "gate": None})
        {'rank': 3, 'gate': 'none'}
    """
    fixed = METHODS[method]
    plain = {name.replace("-", "_"): value for name, value in settings.items()}
    for name in plain:
        if name in fixed.given() or name == "strength":
            why = "it is fixed" if name in fixed.given() else "several are tried of every edit"
            raise SettingError(f"expected settings of {method} but got {name!r}, of which {why}; leave it out")
    told = fixed.but(**plain).describe()
    return {name: "none" if told[name] is None else told[name] for name in plain}


def strengths_of(method: str) -> Sequence[float]:
    """The strengths that are tried of every edit that a method makes."""
    return STRENGTHS.get(METHODS[method].name, INTERPOLATED)


def takes_site(method: str) -> bool:
    """Whether a method edits where it is told to; the others find their own place.

    Examples:
        >>> takes_site("rewrite"), takes_site("last-layer")
        (True, False)
    """
    return METHODS[method].takes_site


def edit_by(
    method: str,
    model: Classifier,
    exemplars: Sequence[Exemplar],
    *,
    settings: Tried,
    sites: Sequence[str],
    reference: Reference,
    run: Run,
) -> Edit:
    """Make an edit, without a look at what it does to its exemplars.

    Args:
        method: a key of `METHODS`.
        model: the classifier; it is not changed.
        exemplars: what to learn from.
        settings: of the method, besides those that are fixed.
        sites: dotted paths; a method that takes one site alone gets the first, one that takes none is not told.
        reference: images whose treatment should stay.
        run: seed, cache and progress.

    Raises:
        SettingError: a setting out of its range at a site.
    """
    how = METHODS[method].but(**settings)
    where = list(sites[:1] if isinstance(how, FineTuneGlobal) else sites) if how.takes_site else None
    return solve(build_problem(model, exemplars, where, how, reference=reference, run=run), how)

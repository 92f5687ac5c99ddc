"""Making an edit: the one place where a problem is built, solved, measured and tried on its own exemplars."""

import functools
from collections.abc import Sequence
from inspect import Parameter, Signature
from typing import Any

from PIL import Image

from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.run import Run, with_settings
from rulepatch.editors.assembling import assembled
from rulepatch.editors.judging import judged, warn_of
from rulepatch.editors.problem import Problem, Reference, build_problem
from rulepatch.editors.registry import editor_named
from rulepatch.errors import ModelError, SettingError
from rulepatch.methods import Method, ProjectedAdam, Rewrite
from rulepatch.models.classifier import Classifier
from rulepatch.settings import range_of, written
from rulepatch.timing import section

__all__ = ["Front", "check_images", "edit", "front", "projected_adam", "rewrite", "solve"]


def edit(
    model: Classifier,
    exemplars: Sequence[Exemplar] | Exemplar,
    *,
    reference: Reference,
    site: str | Sequence[str] | None = None,
    how: Method | type[Method] = Rewrite,
    run: Run = Run(),  # noqa: B008 - it is frozen
    protect: Reference = None,
    style: Image.Image | None = None,
    **settings: Any,
) -> Edit:
    """Edit a classifier: make a layer treat a new concept as it treats the one that it replaces.

    Args:
        model: the classifier; it is not changed.
        exemplars: images, their edited counterparts and masks; one or several.
        reference: images whose treatment should stay: a folder, images in memory, or statistics computed before.
        site: dotted path of the layer to edit, or of several; not needed by methods that find their own.
        how: the method and its settings, such as `Rewrite(rank=3)`.
        run: seed, cache and progress.
        protect: images that must not change, of `Rewrite`: what their keys use is kept from the directions (AlphaEdit,
            Fang et al. 2025), as far as their keys lie in a subspace; measure what was kept.
        style: a texture, of `Rewrite`, whose keys at the layer stand in the place of those of edited images
            (thesis 2.3), so that the exemplars need none.
        settings: single settings of `how` and of `run` by name, in place of theirs.

    Returns:
        The edit, with what was measured at its sites (`Edit.reports`) and what the model says of the exemplars before
        and after it (`Edit.on_exemplars`). A warning says if it does nothing for them.

    Raises:
        ExemplarError: no exemplars, or one that does not fit the model.
        ModelError: the model is no classifier.
        SettingError: a setting that the method does not have, or out of its range.
        SiteError: a site that the model does not have, or that cannot be edited.

    Examples:
        >>> from rulepatch.models.registry import load_model
        >>> from rulepatch.playground.pictures import exemplar, training_images
        >>> model = load_model("playground")
        >>> found = edit(model, [exemplar("van", ground="snow", seed=1)], reference=training_images(100, seed=2),
        ...              site="blocks.5.conv", how=Rewrite(rank=1), run=Run(cache=None))
        >>> found.sites, found.how.rank
        (('blocks.5.conv',), 1)
    """
    if not isinstance(model, Classifier):
        raise ModelError(
            f"expected a rulepatch.Classifier but got {type(model).__name__}; make one: "
            "rulepatch.Classifier(network, preprocess, classes)"
        )
    exemplars = [exemplars] if isinstance(exemplars, Exemplar) else exemplars
    how, run = with_settings(how, run, settings)
    check_images(how, protect=protect, style=style)
    problem = build_problem(model, exemplars, site, how, reference=reference, protect=protect, style=style, run=run)
    with section("solve"):
        changes = editor_named(how.name).solve(problem, how)
    found = judged(model, assembled(problem, how, changes), exemplars)
    warn_of(found, problem)
    return found


def solve(problem: Problem, how: Method) -> Edit:
    """The edit of a problem that was built before, not tried on its exemplars: for those who try many settings.

    Args:
        problem: the problem.
        how: the method and its settings.

    Raises:
        SettingError: a setting that does not fit a site.
    """
    with section("solve"):
        changes = editor_named(how.name).solve(problem, how)
    return assembled(problem, how, changes)


def check_images(how: Method, **images: Any) -> None:
    """Make sure that a method takes the images that it is given.

    Raises:
        SettingError: it does not take them.
    """
    for name, given in images.items():
        if given is not None and name not in how.images:
            raise SettingError(f"expected settings of {how.name} but got {name}, which it does not take; leave it out")


class Front(functools.partial[Edit]):
    """`edit` by one method, whose settings are its keywords: a function with a signature made of its fields."""

    __name__: str
    __qualname__: str
    settings: type[Method]

    def __new__(cls, settings: type[Method]) -> "Front":  # noqa: D102
        self = super().__new__(cls, edit, how=settings)
        self.settings = settings
        self.__name__ = self.__qualname__ = settings.name.replace("-", "_")
        self.__doc__ = _documentation(settings)
        self.__signature__ = _signature(settings)  # type: ignore[attr-defined]
        return self

    def __repr__(self) -> str:
        return f"<function {self.__name__}>"


def front(name: str) -> Front:
    """`edit` by the method of a name.

    Raises:
        SettingError: there is none of that name.
    """
    return Front(editor_named(name).settings)


def _signature(settings: type[Method]) -> Signature:
    by_place, defaults = ("model", "exemplars"), edit.__kwdefaults__ or {}
    parameters = [
        Parameter(
            name,
            Parameter.POSITIONAL_OR_KEYWORD if name in by_place else Parameter.KEYWORD_ONLY,
            default=defaults.get(name, Parameter.empty),
            annotation=edit.__annotations__[name],
        )
        for name in (*by_place, "reference", "site", *sorted(settings.images))
    ]
    parameters += [
        Parameter(name, Parameter.KEYWORD_ONLY, default=field.get_default(), annotation=field.annotation)
        for fields in (settings.model_fields, Run.model_fields)
        for name, field in fields.items()
    ]
    return Signature(parameters, return_annotation=Edit)


def _documentation(settings: type[Method]) -> str:
    fields = {**settings.model_fields, **Run.model_fields}
    lines = [
        f"    {name}: {field.description} ({range_of(field)}; {written(field.get_default())} by default)"
        for name, field in fields.items()
    ]
    return "\n".join([settings.__doc__ or "", "", "See `edit` for the other arguments.", "", "Args:", *lines])


rewrite = Front(Rewrite)
"""`edit` by `Rewrite`, with its settings and those of `Run` as keywords: `rewrite(…, rank=3, gate=0.98, seed=1)`."""

projected_adam = Front(ProjectedAdam)
"""`edit` by `ProjectedAdam`, with its settings and those of `Run` as keywords."""

"""One person's work at rules of one model: exemplars, an edit that is being tried, the rules kept so far, and undo.

It holds the state of an interactive application, independent of its user interface.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from rulepatch.concepts.match import Match, Matcher, key_of_edit
from rulepatch.core.edit import Edit, base_digest
from rulepatch.core.exemplars import Exemplar
from rulepatch.core.moments import KeyStatistics
from rulepatch.data.cache import Cache
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.data.run import Run
from rulepatch.data.statistics import key_statistics
from rulepatch.data.stream import ImageStream
from rulepatch.editors.edit import solve
from rulepatch.editors.judging import judged
from rulepatch.editors.problem import build_problem
from rulepatch.errors import ExemplarError, SettingError
from rulepatch.evaluation.activations import Activations, first_site
from rulepatch.evaluation.outcomes import Outcomes
from rulepatch.methods import Rewrite
from rulepatch.models.classes import Classes
from rulepatch.models.classifier import Classifier
from rulepatch.site_search.search import search
from rulepatch.tracing.model_sites import sites_of
from rulepatch.tracing.sites import SiteList
from rulepatch.web.recipes import Draft, Rule, State

__all__ = ["ClassShares", "Heatmaps", "Side", "Workbench"]

MOST_CLEAN = 300
"""Images on which damage is measured after every change, at most."""

KEPT_SITES = 2
"""Size of the LRU cache of sites with cached activations of tests and clean images."""

ClassShares = list[tuple[str, float]]
"""Prediction for an image: classes and their probabilities, 0..1, the likeliest first."""

Side = Literal["tests", "clean"]


@dataclass(frozen=True, eq=False)
class Heatmaps:
    """Scores of a rule's key in images.

    Attributes:
        site: at which it is looked for.
        threshold: score above which it fires.
        matches: images, in the order asked for.
    """

    site: str
    threshold: float
    matches: tuple[Match, ...] = field(repr=False)


class Workbench:
    """Rules of one model, step by step.

    It needs exclusive access to the model, which is edited temporarily during computations: workbenches must not share
    a model, nor threads a workbench.

    Args:
        model: the classifier.
        reference: images whose treatment should stay: a folder, or images in memory.
        tests: labelled images that edits should repair; none if None.
        clean: labelled images on which damage is measured; the reference set if None.
        validation: labelled images that a search chooses on, never the tests; it makes its own if None.
        cache: where statistics are kept; the user's own cache by default, None for nowhere.

    Examples:
        >>> from rulepatch.models.registry import load_model
        >>> from rulepatch.playground.pictures import exemplar, image_set, training_images
        >>> from rulepatch.experiments.demo import scenes_on_snow
        >>> tests = image_set(scenes_on_snow(2, seed=0), "on snow")
        >>> with Workbench(load_model("playground"), training_images(60, seed=2), tests, cache=None) as bench:
        ...     bench.add(exemplar("van", ground="snow", seed=1))
        ...     _ = bench.rewrite("blocks.3.conv", rank=1, strength=2.0)
        ...     found = bench.outcomes("tests")
        ...     len(found.repaired) > len(found.broken)
        True
    """

    def __init__(
        self,
        model: Classifier,
        reference: Any,
        tests: Any = None,
        clean: Any = None,
        validation: Any = None,
        *,
        cache: Cache | Literal["user"] | None = "user",
    ) -> None:
        self.model = model
        self.reference = ImageSet.of(reference, model.classes)
        self.validation = validation
        self.state = State()
        chosen = self.reference if clean is None else ImageSet.of(clean, model.classes)
        self._sets: dict[Side, ImageSet | None] = {
            "tests": None if tests is None else ImageSet.of(tests, model.classes),
            "clean": chosen.sample(MOST_CLEAN, seed=0),
        }
        self._run = Run(cache=cache, progress=False)
        self._base = base_digest(model.module)
        self._site_list: SiteList = sites_of(model)
        self._statistics: dict[tuple[tuple[str, ...], int], dict[str, KeyStatistics]] = {}
        self._kept: dict[tuple[Side, str], Activations] = {}
        self._found: dict[Side, tuple[Edit, Outcomes]] = {}
        self._past: list[State] = []

    def __enter__(self) -> "Workbench":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Release resources; the workbench cannot be used afterwards."""
        with ExitStack() as stack:
            for kept in self._kept.values():
                stack.callback(kept.close)
        self._kept.clear()
        self._found.clear()
        self._statistics.clear()
        self._past.clear()
        self.state = State()

    # State

    @property
    def sites(self) -> list[str]:
        """The sites with positions in the image, where a rule can be rewritten."""
        return [site.path for site in self._site_list.sites if site.is_spatial]

    @property
    def edit(self) -> Edit:
        """The current edit: the enabled rules and the draft."""
        parts = [rule.edit for rule in self.state.rules if rule.on]
        parts += [self.state.draft.edit] if self.state.draft is not None else []
        return Edit.compose(*parts) if parts else Edit((), self._base)

    @property
    def classes(self) -> Classes:
        """Names of the classes, those of new ones included."""
        return self.model.with_module(self.model.module, self.edit.new_classes).classes

    def pictures(self, side: Side) -> ImageSet | None:
        """The tests, or the images on which damage is measured.

        Returns:
            The set; None if there are no tests.
        """
        return self._sets[side]

    def statistics(self, sites: Sequence[str], *, architecture: int = 1) -> dict[str, KeyStatistics]:
        """Statistics of some sites' keys on the reference set, each computed once.

        Args:
            sites: dotted paths.
            architecture: 1 for keys of c_in channels, 2 for unfolded patches.

        Returns:
            They, by path.

        Raises:
            SiteError: a site that the model does not have.
        """
        key = (tuple(sites), architecture)  # of several at once less is sampled
        if key not in self._statistics:
            self._statistics[key] = key_statistics(
                self.model, self.reference, [self._site_list.site(path) for path in sites], architecture=architecture,
                cache=self._run.store, progress=False,
            )  # fmt: skip
        return self._statistics[key]

    # Steps

    def add(self, exemplar: Exemplar) -> None:
        """Add an exemplar."""
        self._go_on(exemplars=(*self.state.exemplars, exemplar))

    def remove(self, index: int = -1) -> None:
        """Remove an exemplar, the last by default, if there is any."""
        kept = list(self.state.exemplars)
        if kept:
            del kept[index]
            self._go_on(exemplars=tuple(kept))

    def rewrite(self, site: str | Sequence[str], **settings: Any) -> Draft:
        """Make a draft from the exemplars.

        Args:
            site: dotted path, or several.
            settings: of `Rewrite`, by name.

        Raises:
            ExemplarError: no exemplars, or one that does not fit the model.
            SettingError: a setting out of range.
            SiteError: a site that the model does not have.
        """
        return self._draft(self._exemplars(), site, Rewrite(**settings))

    def search(self) -> Draft:
        """Make a draft whose site and settings a search chooses.

        Raises:
            DamageError: nothing keeps to the budget.
            UselessEditError: nothing within the budget helps.
            ExemplarError: no exemplars, or one that does not fit the model.
        """
        exemplars = self._exemplars()
        found = search(self.model, exemplars, reference=self.reference, validation=self.validation, run=self._run)
        if found.edit is None or found.chosen is None:
            raise found.refusal("mark the concept more exactly, add an exemplar, or choose a site yourself")
        sites, how = found.chosen.trial.sites, found.chosen.trial.how
        site = sites[0] if len(sites) == 1 else list(sites)
        draft = Draft(found.edit, exemplars, site, how, found.why, found.to_text())
        self._go_on(draft=draft)
        return draft

    def adjust(self, **settings: Any) -> Draft | None:
        """Recompute the draft with other settings from the same exemplars.

        Args:
            settings: of `Rewrite`, by name.

        Returns:
            The draft; None if there is none yet.

        Raises:
            SettingError: a setting out of range.
        """
        draft = self.state.draft
        if draft is None:
            return None
        how = draft.how.but(**settings)
        return draft if how == draft.how else self._draft(draft.exemplars, draft.site, how, remember=False)

    def keep(self, name: str = "") -> Rule:
        """Keep the draft as a rule, and start a new one without exemplars.

        Args:
            name: of the rule; one that says what it does if empty.

        Raises:
            SettingError: there is no draft.
        """
        draft = self.state.draft
        if draft is None:
            raise SettingError("expected an edit to keep but nothing was rewritten yet; press Rewrite first")
        rule = Rule(self._free(name.strip() or draft.title), draft.edit, draft=draft)
        self._go_on(rules=(*self.state.rules, rule), draft=None, exemplars=())
        return rule

    def load(self, path: Path, name: str) -> Rule:
        """Keep an edit from a file as a rule.

        Args:
            path: the file.
            name: of the rule.

        Raises:
            BaseMismatchError: it was computed on another model.
            EditFileError: it is no edit, or damaged.
            SiteError: the model does not have a site of it.
        """
        edit = Edit.load(path)
        edit.check(self.model.module)
        rule = Rule(self._free(name), edit)
        self._go_on(rules=(*self.state.rules, rule))
        return rule

    def switch(self, on: Sequence[str]) -> None:
        """Switch rules on and off.

        Args:
            on: names of those that are to be on; all others are off.
        """
        self._go_on(rules=tuple(replace(rule, on=rule.name in on) for rule in self.state.rules))

    def undo(self) -> bool:
        """Undo one step."""
        if self._past:
            self.state = self._past.pop()
            return True
        return False

    # Effects

    def predictions(self, images: Sequence[Image.Image], *, edited: bool = True, most: int = 3) -> list[ClassShares]:
        """Predictions for some images.

        Args:
            images: RGB, at least one.
            edited: with the rules and the draft, or without any.
            most: classes to name.

        Returns:
            For each image the likeliest classes.
        """
        edit = self.edit if edited else Edit((), self._base)
        with edit.applied(self.model, any_base=True) as model:
            return [[(guess.name, guess.probability) for guess in each.top] for each in model(images, top=most)]

    def outcomes(self, side: Side) -> Outcomes | None:
        """Outcomes of the rules and the draft on the tests, or on the clean images.

        Returns:
            The outcomes; None if there are no tests.
        """
        images, edit = self._sets[side], self.edit
        if images is None:
            return None
        known = self._found.get(side)
        if known is None or known[0].changes != edit.changes:
            self._found[side] = known = (edit, self._activations(side, images, edit).outcomes(edit))
        return known[1]

    def heatmap(self, pictures: Sequence[Picture], *, level: float = 0.99) -> Heatmaps:
        """Scores of the draft's key in images, or of the last enabled rule's.

        Args:
            pictures: where to look.
            level: quantile of the reference set's positions above which it fires, 0..1.

        Raises:
            SettingError: there is no rule.
            SiteError: the rule looks for nothing in particular.
        """
        if not self.edit.changes:
            raise SettingError("expected a rule to look for but there is none; rewrite one first")
        key = key_of_edit(self.edit)
        known = self.statistics([key.site], architecture=1 if key.direction.ndim == 1 else 2)
        matcher = Matcher(self.model, key, reference=known)
        stream = ImageStream.of(self.model, ImageSet(tuple(pictures), "pictures"))
        return Heatmaps(key.site, float(np.quantile(matcher.reference_scores, level)), tuple(matcher.scan(stream)))

    # Internals

    def _exemplars(self) -> tuple[Exemplar, ...]:
        if not self.state.exemplars:
            raise ExemplarError(
                "expected at least one exemplar but got none; mark a concept and choose what takes its place"
            )
        return self.state.exemplars

    def _draft(
        self, exemplars: tuple[Exemplar, ...], site: str | Sequence[str], how: Rewrite, *, remember: bool = True
    ) -> Draft:
        known = self.statistics([site] if isinstance(site, str) else site, architecture=2 if how.unfolded else 1)
        problem = build_problem(self.model, exemplars, site, how, reference=known, run=self._run)
        edit = judged(self.model, solve(problem, how), exemplars)  # the user interface shows the verdict, so no warning
        draft = Draft(edit, exemplars, site, how)
        if remember:
            self._go_on(draft=draft)
        else:
            self.state = replace(self.state, draft=draft)
        return draft

    def _go_on(self, **changed: Any) -> None:
        self._past.append(self.state)
        self.state = replace(self.state, **changed)

    def _free(self, name: str) -> str:
        taken = {rule.name for rule in self.state.rules}
        return next(each for each in (name, *(f"{name} {i}" for i in range(2, len(taken) + 3))) if each not in taken)

    def _activations(self, side: Side, images: ImageSet, edit: Edit) -> Activations:
        """Cached activations at the first site of an edit."""
        site = first_site(self._site_list.trace, edit)
        kept = self._kept.pop((side, site), None) or Activations(
            self.model, images, [site], progress="tests" if side == "tests" else "clean images"
        )
        self._kept[side, site] = kept  # most recently used last
        own = [key for key in self._kept if key[0] == side]
        for key in own[:-KEPT_SITES]:
            self._kept.pop(key).close()
        return kept

"""Search for the site, rank, strength and gate of an edit on validation images.

The candidates and the selection among them are in `rounds.py` and `selection.py`.
"""

from collections.abc import Sequence
from typing import Any

import torch

from rulepatch.concepts.overlays import find_overlay, transplants
from rulepatch.concepts.stickers import find_sticker
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet
from rulepatch.data.run import Run, with_settings
from rulepatch.data.statistics import key_statistics
from rulepatch.editors.judging import judged, warn_of
from rulepatch.editors.problem import build_problem
from rulepatch.errors import SettingError, SiteError
from rulepatch.evaluation.evaluate import outcomes_of
from rulepatch.evaluation.set_checks import trusted
from rulepatch.methods import MAX_DROP, Rewrite
from rulepatch.models.classifier import Classifier
from rulepatch.site_search.budget import expected_flips, is_within
from rulepatch.site_search.candidates import Candidate, EditFactory
from rulepatch.site_search.evidence import gather_evidence, report_held_out
from rulepatch.site_search.result import Search
from rulepatch.site_search.rounds import OVERLAID, REPLACED, Rounds, best_so_far, by_score
from rulepatch.site_search.scoring import EditScorer
from rulepatch.site_search.selection import told_damage
from rulepatch.text import plural
from rulepatch.timing import section
from rulepatch.tracing.model_sites import sites_of

__all__ = ["MAX_DROP", "search"]

MOST_REFERENCE = 1000
"""Most reference images on which damage is measured; statistics come from others."""

HELD_OUT = 0.2
"""Share of the reference set that chooses nothing and tells what the chosen edit costs."""

TRANSPLANTS = 16
"""Reference images with the exemplars' overlay that are learnt from beside the exemplars."""


def search(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    *,
    reference: Any,
    validation: Any = None,
    sites: Sequence[str] | None = None,
    how: Rewrite | type[Rewrite] = Rewrite,
    max_drop: float = MAX_DROP,
    quick: bool = False,
    run: Run = Run(),  # noqa: B008 - it is frozen
    **settings: Any,
) -> Search:
    """Select the site and the settings of an edit by repair on validation images within a damage budget.

    What an edit repairs is measured, in this order of preference, on validation images that are given; where the
    exemplars' change lies over the image (`find_overlay`), on reference images with it laid over; on counterfactuals,
    reference images in which the old concept is found by context matching and replaced as in the exemplars, if the
    model fails on enough of them; or else on variants of each exemplar, by edits that learnt from the others. The score
    is the mean gain in log-probability of what the model says of the original, or of the label.

    The default edit (the last site, rank 3, gated, as strong as the budget allows) is preferred unless another is
    better by two standard errors; then the candidate with the fewest flips within one standard error of the best is
    selected. For an overlay all sites of the network are candidates and there is no default. An edit is never selected
    if it repairs no more than it breaks although validation images fail, or if it is useless on its own exemplars. A
    fifth of the reference set, and a quarter of many validation images, choose nothing and tell what was chosen.

    Edits are measured on few images first, and those that do well on all. Measurements are cached, so that a search
    that was cut off can be resumed; on Ctrl-C the best edit so far is taken.

    Args:
        model: the classifier; it is not changed.
        exemplars: what to learn from.
        reference: images whose treatment should stay: a folder, or images in memory. A fifth of them only reports. Of
            the others, statistics come from one half while candidates are compared, and damage is measured on the
            other; the chosen edit has statistics of both.
        validation: labelled images that the edit should repair, never the tests; or exemplars that are not learnt
            from; made from the reference set if None.
        sites: where to look; every site with positions in the second half of the network if None.
        how: settings that stay as they are given, such as `Rewrite(gate=None)` for a plain change of weights; the
            search chooses rank, strength, gate and others among those that are not given.
        max_drop: most accuracy that the edit may lose on the reference set, 0..1 (without labels: flips).
        quick: try fewer edits, for a first impression.
        run: seed of the statistics and of the sample on which damage is measured, cache and progress.
        settings: single settings of `how` and of `run` by name, in place of theirs.

    Returns:
        The search; its edit is None if nothing within the budget helps.

    Raises:
        SiteError: a site that the model does not have, or no site with positions.
        SettingError: a budget out of range.
        FolderError: a folder is missing or empty, or the validation images have no labels.
        KeyboardInterrupt: it was stopped before any edit was measured.

    Examples:
        >>> from rulepatch.models.registry import load_model
        >>> from rulepatch.playground.pictures import exemplar, training_images
        >>> found = search(load_model("playground"), [exemplar("van", ground="snow", seed=1)],
        ...                reference=training_images(120, seed=2), sites=["blocks.4.conv"], cache=None)
        >>> found.edit.sites
        ('blocks.4.conv',)
    """
    if not 0 <= max_drop <= 1:
        raise SettingError(f"expected a budget in 0..1 but got {max_drop}; {MAX_DROP} is usual")
    how, run = with_settings(how, run, settings)
    fixed = how() if isinstance(how, type) else how
    if fixed.gate == "auto":
        fixed = Rewrite(**{name: getattr(fixed, name) for name in fixed.model_fields_set - {"gate"}})
    images = ImageSet.of(reference, model.classes)
    with section("search"):
        images = trusted(model, images, seed=run.seed, progress=run.progress)
        overlay = None
        if not fixed.whole_image:
            overlay = find_overlay(exemplars, model.preprocess) or find_sticker(exemplars, model.preprocess)
        images, held = images.split(1 - HELD_OUT, seed=run.seed)
        known, unseen = images.split(0.5, seed=run.seed)  # damage is lower on the images of the statistics
        learnt = list(exemplars)
        if overlay is not None:
            learnt += transplants(overlay, model, known, TRANSPLANTS, seed=run.seed, progress=run.progress)
        factory = _factory(model, learnt, sites, fixed, known, run, whole_network=overlay is not None)
        evidence = gather_evidence(factory, validation, images, overlay, unseen, held)
        sample = unseen.sample(MOST_REFERENCE, seed=run.seed)
        grid = REPLACED if overlay is None else OVERLAID
        with EditScorer(factory, sample, evidence.folds) as scorer:
            rounds = Rounds(fixed, grid.quick() if quick else grid, factory, scorer, max_drop)
            try:
                chosen, why = by_score(rounds)
            except KeyboardInterrupt:
                if not rounds.found:
                    raise
                chosen, why = best_so_far(rounds)
        edit = None
        if chosen is not None:
            edit, told_of_edit = _made_final(factory, chosen, images, max_drop, rounds.by_shift)
            why = f"{why}; {told_of_edit}; {edit.on_exemplars.why}"
            why = f"{why}\n{report_held_out(model, edit, evidence, held, max_drop)}"
            warn_of(edit)
    failing = max((each.failing for each in rounds.found), default=0)
    told = f"repair measured on {evidence.told}; the model fails on {failing} of them"
    return Search(
        edit,
        chosen,
        tuple(rounds.found),
        why,
        told,
        max_drop,
        len(sample),
        model.name,
        factory.make,
        rounds.by_shift,
    )


def _made_final(
    factory: EditFactory, chosen: Candidate, images: ImageSet, max_drop: float, by_shift: float
) -> tuple[Edit, str]:
    """The chosen edit with statistics of the whole reference set, if it is still within the budget."""
    trial, problem, run = chosen.trial, factory.problem, factory.problem.run
    statistics = key_statistics(
        problem.model,
        images,
        [factory.sites[path] for path in trial.sites],
        architecture=2 if trial.how.unfolded else 1,
        seed=run.seed,
        cache=run.store,
        progress=run.progress,
    )
    edit = judged(problem.model, factory.finish(trial, statistics), problem.exemplars)
    sample = images.sample(MOST_REFERENCE, seed=run.seed)
    (found,) = outcomes_of(problem.model, [edit], sample, progress="damage" if run.progress else None)
    told = f"{told_damage(found)} on {plural(len(found), 'image')}"
    expected = expected_flips(len(found.flips) / len(found), found.shift, len(found), by_shift)
    if is_within(found.drop, expected, len(found), max_drop) and edit.on_exemplars.verdict != "useless":
        return edit, f"made anew with statistics of the whole reference set: {told}"
    edit = judged(problem.model, factory.finish(trial), problem.exemplars)
    return edit, f"kept as it is, as with statistics of the whole reference set: {told}"


def _factory(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    sites: Sequence[str] | None,
    how: Rewrite,
    images: ImageSet,
    run: Run,
    *,
    whole_network: bool,
) -> EditFactory:
    """Edits at all candidate sites, with statistics from one pass."""
    site_list = sites_of(model)
    if sites is None:
        grids = [site for site in site_list.sites if site.is_spatial]
        wanted = grids if whole_network else grids[len(grids) // 2 :]
        if not wanted:
            raise SiteError(f"expected a site with positions in {model.name} but it has none; name sites of your own")
    else:
        wanted = [site_list.site(path) for path in sites]
    with section("statistics"):
        statistics = key_statistics(
            model, images, wanted, products=torch.float32, seed=run.seed, cache=run.store, progress=run.progress
        )
    seen_as = Rewrite(whole_image=how.whole_image, value_point=how.value_point)  # what else is given comes later
    problem = build_problem(model, exemplars, [site.path for site in wanted], seen_as, reference=statistics, run=run)
    return EditFactory(problem, images, seen_as)

"""What every editor starts from: what the sites see of the exemplars, and statistics of the reference set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rulepatch.core.exemplars import Exemplar
from rulepatch.core.moments import KeyStatistics
from rulepatch.core.site_activations import SiteActivations, record_sites
from rulepatch.data.folders import ImageSet
from rulepatch.data.run import Run
from rulepatch.data.statistics import StatisticsConfig, find_statistics
from rulepatch.editors.agreement import check_agreement
from rulepatch.editors.registry import editor_named
from rulepatch.errors import ExemplarError, SettingError, warn
from rulepatch.images import cover
from rulepatch.methods import Method
from rulepatch.models.classifier import Classifier
from rulepatch.progress import steps
from rulepatch.timing import section
from rulepatch.tracing import capture
from rulepatch.tracing.model_sites import sites_of
from rulepatch.tracing.sites import Site, SiteList

__all__ = ["Problem", "Reference", "build_problem", "masked_inputs", "record_exemplars"]

SITES_TOGETHER = 8
"""Sites that are recorded in one pass, which holds all activations between the first and the last."""

Reference = Any
"""Images whose treatment should stay: a folder, an `ImageSet`, images in memory; or statistics of every site."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What an editor solves: exemplars as some sites see them, and a reference set.

    Attributes:
        model: the classifier.
        exemplars: what to learn from.
        originals: model inputs of the original images, (n, channels, height, width).
        edited: model inputs of the edited images, (n, channels, height, width).
        observations: what each site sees of the exemplars.
        statistics: of each site's keys on the reference set.
        protected: of each site's keys on images that must not change; empty if there are none.
        style: what the concept is replaced by at the layer itself; None where the edited images show it.
        reference: the reference set's images; None if only statistics of them are at hand.
        run: seed, cache and progress.
    """

    model: Classifier
    exemplars: Sequence[Exemplar]
    originals: Tensor
    edited: Tensor
    observations: Sequence[SiteActivations]
    statistics: Mapping[str, KeyStatistics]
    protected: Mapping[str, KeyStatistics] = field(default_factory=dict)
    style: Image.Image | None = None
    reference: ImageSet | None = None
    run: Run = Run()  # noqa: RUF009 - it is frozen

    @property
    def paths(self) -> tuple[str, ...]:
        """The sites, in the order they were asked for."""
        return tuple(seen.site.path for seen in self.observations)

    def images(self, method: str) -> ImageSet:
        """The reference set's images, for a method that reads them.

        Raises:
            SettingError: only statistics of them are at hand.
        """
        if self.reference is None:
            raise SettingError(f"expected reference images but got statistics of them; {method} reads the images")
        return self.reference


def build_problem(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    site: str | Sequence[str] | None,
    how: Method,
    *,
    reference: Reference,
    protect: Reference = None,
    style: Image.Image | None = None,
    run: Run,
) -> Problem:
    """Record the exemplars and the reference set at some sites.

    Args:
        model: the classifier.
        exemplars: at least one.
        site: dotted path of a site, or of several; None where the method finds its own.
        how: settings of the method that will solve the problem.
        reference: images whose treatment should stay: a folder, images in memory, or statistics of every site.
        protect: images that must not change, in the same forms; none if None.
        style: a texture, whose keys then stand in the place of those of the edited images (thesis 2.3).
        run: seed, cache and progress.

    Raises:
        ExemplarError: no exemplars are given, or one was edited nowhere or beside its mask.
        SettingError: a setting that does not fit a site, or a label that is unknown to the model.
        SiteError: a site that the model does not have, or that cannot be edited.
    """
    editor = editor_named(how.name)
    paths = [site] if isinstance(site, str) else list(site or ())
    if editor.sites is not None:
        paths = list(editor.sites(sites_of(model), paths, how))
    originals, edited, observations = record_exemplars(
        model,
        exemplars,
        paths,
        value_point=getattr(how, "value_point", None),
        whole_image=getattr(how, "whole_image", False),
        edited=style is None,
        progress=run.progress,
    )
    if style is not None:
        texture = cover(style, model.preprocess.input_size[::-1])
        keys = model.inputs(model.preprocess.pixels(texture, framed=True)[None])
        observations = [seen.with_style(capture.input_of(model.module, keys, seen.site.path)) for seen in observations]
    if editor.check is not None:  # before the pass over the reference set, which may take long
        editor.check(model, observations, how)
    sites = [seen.site for seen in observations]
    images = None if isinstance(reference, Mapping) else ImageSet.of(reference, model.classes)
    known: dict[str, Mapping[str, KeyStatistics]] = {}
    for name, given in {"reference": reference, "protect": protect}.items():
        if given is None or (isinstance(given, Mapping) and all(site.path in given for site in sites)):
            known[name] = given or {}
            continue
        with section("statistics"):
            config = StatisticsConfig.of(model, sites, architecture=2 if how.unfolded else 1, seed=run.seed)
            known[name] = find_statistics(model, ImageSet.of(given, model.classes), sites, config, run=run).statistics
    return Problem(
        model, exemplars, originals, edited, observations, known["reference"], known["protect"], style, images, run
    )


def record_exemplars(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    paths: Sequence[str],
    *,
    value_point: str | None = None,
    whole_image: bool = False,
    edited: bool = True,
    progress: bool = False,
) -> tuple[Tensor, Tensor, list[SiteActivations]]:
    """Record what some sites see of exemplars.

    Args:
        model: the classifier.
        exemplars: at least one.
        paths: the sites, at least one.
        value_point: dotted path of the module whose output is matched; found if None. One site only.
        whole_image: whether the mask is ignored.
        edited: whether the edited images are looked at, so that they must differ where the masks are.
        progress: whether to show a bar.

    Returns:
        Model inputs of the original images and of the edited ones, (n, channels, height, width), and what each site
        sees.

    Raises:
        ExemplarError: no exemplars are given, or one was edited nowhere or beside its mask.
        SettingError: a label is unknown to the model, or the sites are none, `auto` or given twice.
        SiteError: a site that the model does not have, or that cannot be edited.
    """
    site_list = sites_of(model)
    _check_paths(site_list, paths, value_point)
    if not exemplars:
        raise ExemplarError("expected at least one exemplar but got none; give an image with a mask")
    for exemplar in exemplars:
        if exemplar.label is not None:
            model.classes.index(exemplar.label)
    model.logits_of(site_list.trace.calls[0].result)  # says so now if the class names do not fit
    sites = [site_list.site(path, value_point=value_point) for path in paths]
    originals, counterparts, masks = _inputs(model, exemplars)
    for exemplar in exemplars if edited else ():
        check_agreement(exemplar, whole_image=whole_image)
    if whole_image:
        masks = torch.ones_like(masks)
    else:
        _follow_the_picture(model, site_list, sites, exemplars, masks)
    together = [sites[start : start + SITES_TOGETHER] for start in range(0, len(sites), SITES_TOGETHER)]
    observations = [
        seen
        for some in steps(together, "exemplars", unit="pass", shown=progress)
        for seen in record_sites(model.module, some, originals, counterparts, masks)
    ]
    return originals, counterparts, observations


def _check_paths(site_list: SiteList, paths: Sequence[str], value_point: str | None) -> None:
    if not paths:
        last = [site.path for site in site_list.sites if site.is_spatial][-3:]
        raise SettingError(
            f"expected at least one site but got none; the last ones are a good start: --site {' --site '.join(last)}"
        )
    if len(set(paths)) != len(paths):
        raise SettingError(f"expected different sites but got {', '.join(paths)}; the command `sites` lists them")
    if "auto" in paths:
        raise SettingError("expected the dotted path of a site but got 'auto'; rulepatch.search chooses by itself")
    if value_point is not None and len(paths) > 1:
        raise SettingError(
            f"expected one site with a value point of your own but got {len(paths)}; edit them one by one"
        )


def _follow_the_picture(
    model: Classifier, site_list: SiteList, sites: Sequence[Site], exemplars: Sequence[Exemplar], masks: Tensor
) -> None:
    """Make sure that masks lie where the layers look, if a network moves or crops the image before its first layer.

    Raises:
        ExemplarError: the layers see nothing of a mask.
    """
    spatial = [site for site in sites if site.is_spatial]
    if site_list.lost is not None and spatial:
        warn(
            f"expected layers of {model.name} to see the image as it lies but before the first of them "
            f"{site_list.lost} "
            "may move its places, where no mask can follow; do that in the preprocessing instead"
        )
    frames = dict.fromkeys(site.key_places.frame for site in spatial if site.key_places is not None)
    for frame in frames:
        if frame is None:
            continue
        for exemplar, seen in zip(exemplars, frame.carry(masks.double().cpu()), strict=True):
            if seen.max() < 0.5:
                raise ExemplarError(
                    f"expected the concept of {exemplar.name} where the layers of {model.name} look, but the network "
                    "crops its input and its mask is empty there; mark the concept there"
                )
        if frame.share < 0.9:
            warn(
                f"expected layers of {model.name} to see all that the network is given but they see "
                f"{frame.share:.0%} of it, as it crops its input; masks count there alone"
            )


def _inputs(model: Classifier, exemplars: Sequence[Exemplar]) -> tuple[Tensor, Tensor, Tensor]:
    """The original and the edited images as model inputs, and their masks, (n, height, width)."""
    edited = model.inputs(torch.stack([model.preprocess.pixels(exemplar.edited) for exemplar in exemplars]))
    originals, masks = masked_inputs(model, exemplars)
    return originals, edited, masks


def masked_inputs(model: Classifier, exemplars: Sequence[Exemplar]) -> tuple[Tensor, Tensor]:
    """The original images of exemplars as a model sees them, and their masks.

    Args:
        model: the classifier.
        exemplars: at least one.

    Returns:
        Inputs, (n, channels, height, width), and masks, (n, height, width), 0..1.

    Raises:
        ExemplarError: a mask is empty where the model looks.
    """
    framed = model.preprocess
    originals = model.inputs(torch.stack([framed.pixels(exemplar.image) for exemplar in exemplars]))
    masks = torch.stack([framed.mask(exemplar.mask) for exemplar in exemplars]).to(model.device)
    for exemplar, mask in zip(exemplars, masks, strict=True):
        if mask.max() < 0.5:
            raise ExemplarError(
                f"expected the concept of {exemplar.name} where the model looks but its mask is empty there; "
                "the model sees the centre of an image only: mark the concept there"
            )
    return originals, masks

"""Jobs of a sweep: the specification that determines each result, and the location of its data."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np

from rulepatch.concepts.cases import CaseSet, Exclusions
from rulepatch.data.folders import ImageSet, Snapshot
from rulepatch.data.statistics import identity_of
from rulepatch.digests import digest_of_json
from rulepatch.errors import FolderError, SettingError, SiteError, nearest
from rulepatch.experiments.grids import takes_site
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model
from rulepatch.progress import steps
from rulepatch.sweeps.plan import Plan, PlannedModel
from rulepatch.sweeps.store import job_key
from rulepatch.tracing.model_sites import sites_of

__all__ = ["Job", "Place", "Reference", "case_digest", "jobs_of", "model_digest", "split_key"]

Groups = Mapping[str, list[str]]

SCHEMA = 1
"""Version of the specification; increase it when the same settings give another result."""


TRIED = ("method", "settings", "site")
"""Keys of the specification in which jobs of one split case differ."""


def split_key(what: Mapping[str, Any]) -> str:
    """Key of a split case, which jobs with other methods, settings and sites share.

    Args:
        what: everything that determines the job's result.
    """
    return job_key({key: value for key, value in what.items() if key not in TRIED})


@dataclass(frozen=True)
class Place:
    """Location of a job's data; it does not affect the result.

    Attributes:
        model: name of the model.
        weights: local weights instead of the model's own.
        device: "cuda" for one GPU per worker.
        sites: all that the plan names for the model.
        cases: folder of the case set.
        exclude: for each concept the classes of which it is no part but the thing itself.
        reference: folder of images whose treatment should stay.
    """

    model: str
    weights: Path | None
    device: str
    sites: tuple[str, ...]
    cases: Path
    reference: Path
    exclude: Exclusions = field(default_factory=dict, hash=False)


@dataclass(frozen=True, eq=False)
class Job:
    """A method with certain settings, at a site, on the exemplars of a case.

    Attributes:
        what: everything that determines the result, as JSON.
        place: where to find it.
    """

    what: Mapping[str, Any]
    place: Place

    @cached_property
    def key(self) -> str:
        """Key of the job."""
        return job_key(self.what)

    @cached_property
    def case(self) -> str:
        """Key of the split case."""
        return split_key(self.what)

    @property
    def kind(self) -> tuple[Any, ...]:
        """Attributes that determine the duration, in order of importance."""
        what = self.what
        return what["model"], what["method"], what["exemplars"], what["site"], job_key(what["settings"])


def jobs_of(plan: Plan, *, device: str = "cpu", progress: bool = True) -> list[Job]:
    """All jobs of a plan, ordered so that jobs with shared data are adjacent.

    Every model is loaded once and its reference images are read once, as their digests belong to the jobs.

    Args:
        plan: the plan.
        device: where jobs are to run; its type belongs to the jobs, as results may differ in their last bits.
        progress: whether to show a bar.

    Raises:
        SettingError: no case has enough images of a class, or a name in the plan is unknown.
        FolderError: a case set or the reference is missing, damaged or does not fit the model.
    """
    found: list[Job] = []
    common = {
        "schema": SCHEMA,
        "versions": {name: version(name) for name in ("rulepatch", "torch", "numpy")},
        "device": device.partition(":")[0],
        "validation": plan.validation,
        "max_drop": plan.max_drop,
    }
    sets = {root: CaseSet.read(root).without(plan.exclude) for root in plan.cases}
    _check_names(plan, sets)
    pairs = [(planned, root) for planned in plan.models for root in plan.cases]
    loaded, model, reference = None, None, None
    for planned, root in steps(pairs, "reading the plan", shown=progress):
        if model is None or reference is None or loaded != planned:
            model = load_model(planned.name, weights=planned.weights, device=device)
            loaded, reference = planned, Reference.read(plan.reference, model)
        place = Place(
            planned.name, planned.weights, device, _sites(model, planned), root, plan.reference, plan.exclude
        )  # fmt: skip
        about = {**common, "model": model_digest(model)}
        sources, references = sets[root].sources(), dict[str, str]()
        groups = _groups(plan, sets[root], model)
        for concept, style in sets[root].cases:
            if (plan.concepts and concept not in plan.concepts) or (plan.styles and style not in plan.styles):
                continue
            case = sets[root].where(concept=concept, style=style)
            case.images(model.classes, styled=True)  # all its classes are the model's
            if concept not in references:
                references[concept] = reference.without(sets[root].where(concept=concept), sources).digest()
            own = {
                "case": {"concept": concept, "style": style, "digest": case_digest(case, sources)},
                "reference": references[concept],
            }
            found += [Job({**about, **own, **each}, place) for each in _each(plan, case, groups, place.sites)]
    if not found:
        raise SettingError(
            f"expected a class with more than {min(plan.exemplars)} images in some case of the plan but there is "
            "none; take fewer exemplars, name groups of classes as targets, or make larger case sets"
        )
    return list({job.key: job for job in found}.values())


def _each(plan: Plan, case: CaseSet, groups: Groups, sites: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Key of the jobs of a case."""
    for seed in plan.seeds:
        for count in plan.exemplars:
            for target, members in _targets(plan, case, groups, count, seed):
                for method, grid in plan.methods.items():
                    for settings in grid:
                        for site in sites if takes_site(method) else [None]:
                            yield {
                                "target": target, "members": members, "exemplars": count, "seed": seed,
                                "method": method, "settings": dict(settings), "site": site,
                            }  # fmt: skip


def _groups(plan: Plan, cases: CaseSet, model: Classifier) -> Groups:
    """The classes of each group as the case set names them; a plan may call them by name, index or WordNet id."""
    named = {model.classes.index(label): label for label in {each.label for each in cases} if label is not None}
    indices = {group: {model.classes.index(label) for label in labels} for group, labels in plan.groups.items()}
    return {group: sorted(named[index] for index in own if index in named) for group, own in indices.items()}


def _targets(plan: Plan, case: CaseSet, groups: Groups, count: int, seed: int) -> list[tuple[str, list[str] | None]]:
    """The classes, or groups of them, that have enough images and come first in the seed's order."""
    pictures: dict[str, set[str]] = {}
    for each in case:
        own = [name for name, labels in groups.items() if each.label in labels]
        for name in own if plan.groups else [each.label] if each.label is not None else []:
            pictures.setdefault(name, set()).add(each.picture)
    enough = [name for name, own in pictures.items() if len(own) > count]
    if isinstance(plan.targets, int):
        order = sorted(enough, key=lambda name: digest_of_json([seed, *case.cases[0], name]))
        chosen = order[: plan.targets]
    else:
        chosen = [name for name in plan.targets if name in enough]
    return [(name, groups.get(name)) for name in chosen]


def _check_names(plan: Plan, sets: Mapping[Path, CaseSet]) -> None:
    """Refuse names of concepts, styles and targets that no case set knows."""
    every = [each for cases in sets.values() for each in cases]
    known: dict[str, tuple[Sequence[str], Collection[str]]] = {
        "concepts": (plan.concepts, {each.concept for each in every}),
        "styles": (plan.styles, {each.style for each in every}),
        "targets": (
            () if isinstance(plan.targets, int) else plan.targets,
            set(plan.groups) or {each.label for each in every if each.label is not None},
        ),
    }
    for key, (wanted, names) in known.items():
        for name in wanted:
            if name not in names:
                raise SettingError(
                    f"expected {key} of the plan's case sets but got {name!r}; "
                    f"the nearest are {nearest(name, sorted(names))}"
                )


def _sites(model: Classifier, planned: PlannedModel) -> tuple[str, ...]:
    """Sites by name, or some evenly spread over the depth; the last layer has a method of its own."""
    paths = [site.path for site in sites_of(model).sites]
    if isinstance(planned.sites, int):
        inner = paths[:-1] or paths
        places = np.linspace(0, len(inner) - 1, min(planned.sites, len(inner)) + 1)[1:].round().astype(int)
        return tuple(inner[place] for place in dict.fromkeys(places))
    for site in planned.sites:
        if site not in paths:
            raise SiteError(f"expected sites of {model.name} but got {site!r}; the nearest are {nearest(site, paths)}")
    return tuple(sorted(planned.sites, key=paths.index))


def model_digest(model: Classifier) -> str:
    """Digest of a model: weights, operations, preprocessing."""
    return digest_of_json(identity_of(model))


def case_digest(case: CaseSet, sources: Mapping[str, str]) -> str:
    """Digest of a case: its settings and source images."""
    rows = [each.to_json() | {"source": sources[each.picture]} for each in case]
    return digest_of_json([case.manifest["settings"], rows])


@dataclass(frozen=True, eq=False)
class Reference:
    """A folder of reference images, each read once for its digest.

    Attributes:
        images: the images.
        digests: of each.
    """

    images: ImageSet
    digests: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path, model: Classifier) -> Self:
        """Read a folder of images in a folder for each class of a model.

        Raises:
            FolderError: there are none, or some without a class.
        """
        images = ImageSet.of(folder, model.classes)
        if not images.is_labelled:
            raise FolderError(
                f"expected reference images in a folder for each class but {folder} has some without; "
                "accuracy lost cannot be told without"
            )
        return cls(images, tuple(images.digests()))

    def without(self, cases: CaseSet, sources: Mapping[str, str]) -> Snapshot:
        """The images that some cases were not made of.

        Args:
            cases: the cases.
            sources: digest of the file that each of their images was made of.

        Returns:
            The images, with their digest.

        Raises:
            FolderError: there are fewer than two.
        """
        taken = {sources[each.picture] for each in cases}
        kept = [i for i, digest in enumerate(self.digests) if digest not in taken]
        if len(kept) < 2:
            raise FolderError(
                f"expected reference images that the cases were not made of but {self.images.name} has {len(kept)}; "
                "name a larger folder"
            )
        pictures = tuple(self.images.pictures[i] for i in kept)
        return Snapshot(pictures, self.images.name, tuple(self.digests[i] for i in kept))

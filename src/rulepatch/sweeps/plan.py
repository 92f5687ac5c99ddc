"""What a sweep is to try, as people write it: a YAML file."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

from rulepatch.concepts.cases import Exclusions, read_classes
from rulepatch.errors import SettingError, nearest
from rulepatch.experiments.grids import Tried, check_method, every_combination, grid_of, tried
from rulepatch.methods import MAX_DROP
from rulepatch.models.model_file import require_trust_of
from rulepatch.reading import read_yaml
from rulepatch.text import read_share
from rulepatch.trust import require_trust

__all__ = ["Plan", "PlannedModel"]

METHODS_OF_THE_PAPER = ("rewrite", "projected-adam", "finetune-local", "finetune-global")

MOST_COMBINATIONS = 10_000
"""Of a method's settings, each of which is tried for every case."""


@dataclass(frozen=True)
class PlannedModel:
    """A model of a plan.

    Attributes:
        name: as `load_model` takes it.
        weights: local weights instead of the model's own.
        sites: dotted paths, or how many, evenly spread over the depth.
    """

    name: str
    weights: Path | None = None
    sites: tuple[str, ...] | int = 3


@dataclass(frozen=True)
class Plan:
    """Case sets × models × sites × methods × hyper-parameters × seeds.

    Attributes:
        models: to be edited.
        cases: folders of case sets.
        reference: folder of images whose treatment should stay, in a folder for each class.
        methods: for each method the settings that are tried.
        concepts: of the case sets; all if empty.
        styles: of the case sets; all if empty.
        targets: how many classes of each case to take exemplars of, one after the other, or their names.
        groups: classes that count as one target, by the name of the group; none but these are targets if there are any.
        exclude: for each concept the classes of which it is no part but the thing itself.
        exemplars: numbers of exemplars.
        validation: share of each case's images that settings are chosen on, 0..1.
        max_drop: accuracy that an edit may lose on the reference set, 0..1.
        seeds: of splits, targets and methods.

    Examples:
        >>> plan = Plan.of({"models": ["playground"], "cases": "snow", "reference": "photos", "methods": ["rewrite"]})
        >>> plan.exemplars, plan.max_drop, len(plan.methods["rewrite"])
        ((3, 10), 0.0025, 6)
    """

    models: tuple[PlannedModel, ...]
    cases: tuple[Path, ...]
    reference: Path
    methods: Mapping[str, Sequence[Tried]]
    concepts: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    targets: tuple[str, ...] | int = 1
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    exclude: Exclusions = field(default_factory=dict)
    exemplars: tuple[int, ...] = (3, 10)
    validation: float = 0.3
    max_drop: float = MAX_DROP
    seeds: tuple[int, ...] = (0,)

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """Read a plan.

        Args:
            path: a YAML file; the paths in it are relative to it.

        Raises:
            SettingError: the file is missing, is no YAML, or says something that no plan says.
        """
        found = read_yaml(path, SettingError, what="a plan in YAML")
        return cls.of(found, root=path.parent, name=str(path))

    @classmethod
    def of(cls, found: Any, *, root: Path = Path(), name: str = "the plan") -> "Plan":
        """Read a plan out of what a YAML file holds.

        Args:
            found: names and values.
            root: what paths are relative to.
            name: of the plan, for messages.

        Raises:
            SettingError: it says something that no plan says.
        """
        return _Reader(name, root).plan(found)


@dataclass(frozen=True)
class _Reader:
    """Reads the parts of a plan, and tells where they are wrong."""

    name: str
    root: Path

    def plan(self, found: Any) -> Plan:
        """A whole plan."""
        known = [*(each.name for each in fields(Plan)), "sites"]
        given = self.mapping(found, known, "its keys", need=("models", "cases", "reference"))
        sites = self.sites(given.get("sites", PlannedModel.sites))
        settings: dict[str, Any] = {
            "models": tuple(self.model(each, sites) for each in self.several(given["models"])),
            "cases": tuple(self.path(each) for each in self.several(given["cases"])),
            "reference": self.path(given["reference"]),
            "methods": self.methods(given.get("methods", METHODS_OF_THE_PAPER)),
        }
        for key in ("concepts", "styles"):
            if key in given:
                settings[key] = self.names(given[key])
        if "targets" in given:
            targets = given["targets"]
            several = isinstance(targets, str | list)
            settings["targets"] = self.names(targets) if several else self.whole(targets, "targets")
        for key in ("groups", "exclude"):
            if key in given:
                settings[key] = self.classes(given[key], key)
        for key, least in (("exemplars", 1), ("seeds", 0)):
            if key in given:
                settings[key] = tuple(self.whole(each, key, least) for each in self.several(given[key]))
        for key in ("validation", "max_drop"):
            if key in given:
                settings[key] = read_share(str(given[key]))
        for key in ("cases", "exemplars", "seeds"):
            if len(set(settings.get(key, ()))) < len(settings.get(key, ())):
                self.refuse(f"each of {key} once", "some twice")
        if not 0 < settings.get("validation", Plan.validation) < 1:
            self.refuse("a validation share between 0 and 1", given["validation"])
        return Plan(**settings)

    def model(self, found: Any, sites: tuple[str, ...] | int) -> PlannedModel:
        """A model: its name, or more about it."""
        if isinstance(found, str):
            return PlannedModel(self.model_name(found), None, sites)
        given = self.mapping(
            found, [each.name for each in fields(PlannedModel)], "what it says of a model", need=("name",)
        )
        weights = self.path(given["weights"]) if "weights" in given else None
        own = self.sites(given["sites"]) if "sites" in given else sites
        return PlannedModel(self.model_name(self.text(given["name"])), weights, own)

    def model_name(self, name: str) -> str:
        """The name of a model; that of a file is relative to the plan."""
        file, colon, function = name.partition(":")
        if not file.endswith((".py", ".toml")):
            return name
        path = self.path(file)
        if colon:
            require_trust(Path(self.name), f"{path}:{function}")
        elif path.is_file():
            require_trust_of(path)
        return f"{path}{colon}{function}"

    def sites(self, found: Any) -> tuple[str, ...] | int:
        """Sites by name, or their number."""
        if isinstance(found, int):
            return self.whole(found, "sites")
        return self.names(found)

    def methods(self, found: Any) -> dict[str, Sequence[Tried]]:
        """Methods, each with what is tried."""
        wanted = found if isinstance(found, Mapping) else dict.fromkeys(self.names(found), "default")
        methods: dict[str, Sequence[Tried]] = {}
        for method, grid in wanted.items():
            check_method(str(method))
            if isinstance(grid, str):
                methods[method] = grid_of(method, grid)
            else:
                several = grid if isinstance(grid, list) and grid else [{} if grid is None else grid]
                methods[method] = [settings for each in several for settings in self.combinations(method, each)]
        return methods

    def combinations(self, method: str, found: Any) -> Iterable[Tried]:
        """Every combination of the values of a method's options."""
        given = {
            key: self.several(values) for key, values in self.mapping(found, None, f"settings of {method}").items()
        }
        if math.prod(map(len, given.values())) > MOST_COMBINATIONS:
            self.refuse(f"at most {MOST_COMBINATIONS:,} combinations of settings of {method}", "more", "leave some out")
        try:
            return [tried(method, each) for each in every_combination(**given)]
        except SettingError as error:
            self.refuse_as(error)

    def classes(self, found: Any, key: str) -> Mapping[str, Sequence[str]]:
        """Classes by name, written here or in a JSON file."""
        if isinstance(found, str):
            return read_classes(self.path(found))
        given = self.mapping(found, None, key)
        return {name: list(self.names(labels)) for name, labels in given.items()}

    def path(self, found: Any) -> Path:
        """A path, relative to the plan."""
        text = self.text(found)
        try:
            return self.root / Path(text).expanduser()
        except RuntimeError:
            self.refuse("a path", text, "there is no such user; write the folder out")

    def names(self, found: Any) -> tuple[str, ...]:
        """One name or a list of them."""
        return tuple(map(self.text, self.several(found)))

    def text(self, found: Any) -> str:
        """A name; one that looks like a whole number is one, too."""
        if type(found) not in {str, int}:
            self.refuse("a name", json.dumps(found, default=str)[:80], "put it in quotes")
        return str(found)

    def several(self, found: Any) -> list[Any]:
        """One thing or a list of them."""
        several = list(found) if isinstance(found, list | tuple) else [found]
        if not several or any(each is None or each == {} for each in several):
            self.refuse("a value or a list of them", found)
        return several

    def whole(self, found: Any, key: str, least: int = 1) -> int:
        """A whole number."""
        if not isinstance(found, int) or isinstance(found, bool) or found < least:
            self.refuse(f"whole numbers of at least {least} for {key}", found)
        return found

    def mapping(self, found: Any, known: Iterable[str] | None, what: str, need: Sequence[str] = ()) -> dict[str, Any]:
        """Names and values, of which none is unknown (any may be there if `known` is None) and none missing."""
        if not isinstance(found, dict):
            self.refuse(f"names and values for {what}", found)
        for key in found:
            if not isinstance(key, str):
                self.refuse(f"names for {what}", key, "put it in quotes")
            if known is not None and key not in known:
                self.refuse(f"{what} to be known", key, f"the nearest are {nearest(str(key), sorted(known))}")
        for key in need:
            if key not in found:
                self.refuse(f"{key} to be given", f"only {', '.join(found) or 'nothing'}", "add it")
        return found

    def refuse_as(self, error: SettingError) -> NoReturn:
        """Say what is wrong with the plan, as a setting told it."""
        raise SettingError(f"{error} (in {self.name})") from None

    def refuse(self, expected: str, got: object, advice: str = "mend it") -> NoReturn:
        """Say what is wrong with the plan."""
        raise SettingError(f"expected {expected} in {self.name} but got {got}; {advice}")

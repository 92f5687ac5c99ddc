"""Model files: `FILE.toml` names an architecture, its weights, preprocessing and classes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rulepatch.errors import ModelError, nearest, warn
from rulepatch.forms import checked
from rulepatch.models.classes import Classes
from rulepatch.models.preprocess import Preprocess
from rulepatch.models.registry import Request, Sourced, build, load_weights, source
from rulepatch.reading import is_regular, read_json, read_text, read_toml
from rulepatch.trust import require_trust

_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "architecture": (str,),
    "kwargs": (dict,),
    "weights": (str,),
    "classes": (str, list),
    "input_size": (int, list),
    "resize": (int,),
    "interpolation": (str,),
    "mean": (list,),
    "std": (list,),
    "keep_exact_size": (bool,),
}
MOST = 1e6
"""Of any number in a model file: pixels, levels, means."""

_OF_THE_HEAD = {"num_classes", "in_chans"}
"""Arguments that leave a network of timm what it is but for its first and last layers."""


@source("toml")
def load(request: Request) -> Sourced:
    """The model that a model file describes; paths in it are relative to the file.

    Returns:
        The network with everything the file or its architecture says.

    Raises:
        ModelError: the file is missing or malformed, has unknown keys, or names what cannot be loaded.
        SettingError: it names code that is not trusted.
    """
    path = Path(request.name)
    entries = _read(path)
    if "architecture" not in entries:
        raise ModelError(f"expected the key architecture in {path} but it is missing; add it")
    architecture = entries["architecture"]
    if architecture.endswith(".toml"):
        raise ModelError(f"expected {path} to name an architecture but got the model file {architecture}; copy it")
    architecture = _trusted(path, architecture)
    if architecture.startswith("hf/") and (folder := path.parent / architecture.removeprefix("hf/")).is_dir():
        architecture = f"hf/{folder}"
    classes = _classes(path, entries["classes"]) if "classes" in entries else request.classes
    pretrained = request.pretrained and "weights" not in entries
    kwargs = {**entries.get("kwargs", {}), **request.kwargs}
    given = build(architecture, pretrained=pretrained, kwargs=kwargs, classes=classes)
    if request.pretrained and "weights" in entries:
        load_weights(given.module, path.parent / entries["weights"], given.translate)
    preprocess = _preprocess(path, entries, given.preprocess)
    if architecture.startswith("timm/") and given.preprocess is not None and preprocess is not None:
        own_weights = "weights" in entries or not request.pretrained
        if not own_weights or kwargs.keys() <= _OF_THE_HEAD:
            _warn_of_contradiction(path, architecture, given.preprocess, preprocess, own_weights=own_weights)
    return Sourced(given.module, preprocess, classes or given.classes, entries.get("name", path.stem), given.translate)


def require_trust_of(path: Path) -> None:
    """Refuse a model file that names code, if that is not trusted, before any work is begun.

    Raises:
        ModelError: the file is missing or malformed.
        SettingError: it names code that is not trusted.
    """
    _trusted(path, str(_read(path).get("architecture")))


def _trusted(path: Path, architecture: str) -> str:
    """An architecture that a model file names; that of code of its own with its path, if it may be run."""
    if ".py:" not in architecture:
        return architecture
    code = str(path.parent / architecture)
    require_trust(path, code)
    return code


def _read(path: Path) -> Mapping[str, Any]:
    if not is_regular(path):
        raise ModelError(f"expected a model file at {path} but there is none; check the path")
    entries = read_toml(path, ModelError, what="a model file in TOML")
    for key, value in entries.items():
        if key not in _TYPES:
            raise ModelError(
                f"expected keys of a model file but {path} has {key!r}; the nearest are {nearest(key, _TYPES)}"
            )
        if type(value) not in _TYPES[key]:
            wanted = " or ".join(kind.__name__ for kind in _TYPES[key])
            raise ModelError(f"expected {key} in {path} to be {wanted} but got {type(value).__name__}; mend it")
    for key in ("input_size", "resize"):
        if not all(value <= MOST for value in _leaves([entries.get(key, 1)]) if type(value) is int):
            raise ModelError(f"expected {key} in {path} to be the pixels of a side but got {entries[key]}; mend it")
    checked(_leaves(entries.get("kwargs", {})), [(str, bool, float)], f"kwargs in {path}", ModelError)
    return entries


def _leaves(value: Any) -> list[Any]:
    """Everything in dictionaries and lists that is none."""
    if isinstance(value, dict | list):
        inside = value.values() if isinstance(value, dict) else value
        return [leaf for each in inside for leaf in _leaves(each)]
    return [value]


def _preprocess(path: Path, entries: Mapping[str, Any], base: Preprocess | None) -> Preprocess | None:
    """That of the architecture, or none, with what the file says instead."""
    changes: dict[str, Any] = {
        key: entries[key] for key in ("resize", "interpolation", "keep_exact_size") if key in entries
    }
    usual = 3 if base is None else base.channels
    for key, other in (("mean", "std"), ("std", "mean")):
        if key in entries:
            changes[key] = _numbers(path, key, entries[key], len(entries.get(other, ())) or usual)
    if len(changes.get("mean", ())) not in {0, usual}:
        changes["mode"] = None  # which follows from the number of channels
    if "input_size" in entries:
        size = entries["input_size"]
        if isinstance(size, list) and not all(type(side) is int for side in size):
            raise ModelError(f"expected input_size in {path} to be 2 whole numbers but got {size}; mend it")
        changes["input_size"] = (size, size) if isinstance(size, int) else _numbers(path, "input_size", size, 2)
        changes.setdefault("resize", None)
    if "resize" in changes:  # the file's own, not a library's
        changes.setdefault("keep_exact_size", True)
    if base is not None:
        return replace(base, **changes)
    return Preprocess(**changes) if "input_size" in changes else None


def _warn_of_contradiction(
    path: Path, architecture: str, timm: Preprocess, file: Preprocess, *, own_weights: bool
) -> None:
    """Say where a file prepares images in another way than timm does for the network that it names.

    Weights of the file's own may well have been trained at another size: of these the normalisation alone counts.
    """
    keys = [] if own_weights else ["input_size", "interpolation"]
    keys += ["resize"] if timm.input_size == file.input_size and not own_weights else []
    keys += ["mean", "std"] if timm.channels == file.channels == 3 else []  # those of others are our own guess
    pairs = {key: (_setting(file, key), _setting(timm, key)) for key in keys}
    others = {key: pair for key, pair in pairs.items() if _differ(*pair)}
    if others:
        said, known = (" and ".join(f"{key} {pair[side]}" for key, pair in others.items()) for side in (0, 1))
        warn(
            f"{path} gives {said} but timm's own configuration of {architecture} has {known}; leave that out, unless "
            "the weights were trained with what the file gives"
        )


def _setting(preprocess: Preprocess, key: str) -> Any:
    return preprocess.resize or min(preprocess.input_size) if key == "resize" else getattr(preprocess, key)


def _differ(one: Any, other: Any) -> bool:
    """Whether settings differ, numbers for channels by more than one of 255 levels."""
    if isinstance(one, tuple):
        return any(abs(a - b) > 1 / 255 for a, b in zip(one, other, strict=True))
    return bool(one != other)


def _numbers(path: Path, key: str, values: list[Any], count: int) -> tuple[float, ...]:
    if len(values) != count or not all(type(value) in {int, float} and not abs(value) > MOST for value in values):
        raise ModelError(f"expected {key} in {path} to be {count} numbers but got {values}; mend it")
    return tuple(values)


def _classes(path: Path, classes: Any) -> Classes:
    if isinstance(classes, str):
        path, what = path.parent / classes, "a list of class names"
        if path.suffix == ".json":
            classes = read_json(path, ModelError, what=what)
        else:
            classes = read_text(path, ModelError, what=what).rstrip().splitlines()
    entries: list[Any] = classes if isinstance(classes, list) else []
    if _are_names(entries):
        return Classes(tuple(entries))
    objects = [entry for entry in entries if isinstance(entry, dict) and type(entry.get("index")) is int]
    by_index: dict[int, Any] = {entry["index"]: entry for entry in objects}
    names, wordnet = ([by_index.get(i, {}).get(key) for i in range(len(entries))] for key in ("name", "wnid"))
    if _are_names(names):
        return Classes(tuple(names), tuple(wordnet) if _are_names(wordnet) else None)
    raise ModelError(
        f"expected classes in {path} to be a list of names, or of objects with index (from 0 on) and name, "
        "but got another form; mend it"
    )


def _are_names(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, str) and value.strip() for value in values)

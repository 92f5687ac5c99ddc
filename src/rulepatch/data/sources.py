"""Adapters for images and labels of other libraries: sequences, torchvision and Hugging Face data sets."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from rulepatch.data.pictures import Picture
from rulepatch.errors import FolderError, ImageError, SettingError
from rulepatch.images import as_image, read_image
from rulepatch.models.classes import Classes, synonyms

__all__ = ["pictures_of"]

PICTURES = ("image", "img", "picture", "pixel_values", "jpg", "png", "webp")
LABELS = ("label", "labels", "fine_label", "class", "target", "cls")
"""Usual names of the image column of a table."""


def pictures_of(source: Any, classes: Classes) -> Iterator[Picture]:
    """The images of a sequence or data set, each with its label.

    Labels of a data set that names its own classes (`.classes`, `.class_to_idx`, `.features`) are matched by name, also
    through subsets, splits and concatenations of it; other numbers are indices of the model's classes.

    Args:
        source: yields images, (image, label) pairs or dictionaries of them; an image is a path, a PIL image, an
            array, a tensor or the bytes of a file.
        classes: of the model.

    Yields:
        Images, those in memory in RGB.

    Raises:
        FolderError: it yields something else, or labels that no class of the model matches.
    """
    if isinstance(source, Mapping):
        raise FolderError(f"expected images but got a dictionary of {', '.join(map(str, source))}; give one of them")
    if hasattr(source, "batch_sampler") and hasattr(source, "dataset"):
        raise FolderError("expected images one by one but got a loader of batches; give its data set, loader.dataset")
    if parts := getattr(source, "datasets", None):
        for part in parts:
            yield from pictures_of(part, classes)
        return
    names, columns = _class_names(source)
    index_of = _reader_of_labels(names, classes)
    for number, entry in enumerate(_each(source)):
        if isinstance(entry, Picture):
            yield entry
            continue
        picture, label = _parts(entry, columns)
        if names is not None and columns and label == -1:  # Hugging Face's placeholder for withheld labels
            label = None
        try:
            yield Picture(_read(picture), None if label is None else index_of(_plain(label)))
        except ImageError as error:
            raise FolderError(f"expected images but number {number} is none: {error}") from None


def _each(source: Any) -> Iterable[Any]:
    if isinstance(source, Image.Image | bytes) or not (hasattr(source, "__iter__") or hasattr(source, "__getitem__")):
        raise FolderError(
            f"expected a folder or a sequence of images but got {type(source).__name__}; put it in a list"
        )
    if hasattr(source, "__iter__") or not hasattr(source, "__len__"):
        return iter(source)
    return (source[index] for index in range(len(source)))


def _class_names(source: Any) -> tuple[Sequence[str] | None, tuple[str, ...]]:
    """A data set's own class names, if it has any, and its label columns."""
    if getattr(source, "target_transform", None) is not None:  # it may change labels arbitrarily
        return None, ()
    numbers, names, features = (getattr(source, name, None) for name in ("class_to_idx", "classes", "features"))
    if isinstance(names, Sequence) and not isinstance(names, str) and names:
        names = [name if isinstance(name, str) else ", ".join(map(str, name)) for name in names]
    else:
        names = None
    if isinstance(numbers, Mapping) and (names is None or len(numbers) == len(names)):
        ordered = sorted(numbers, key=lambda name: numbers[name])
        names = ordered if sorted(numbers.values()) == list(range(len(ordered))) else names
    if names is not None:
        return names, ()
    if isinstance(features, Mapping):
        named = {key: feature.names for key, feature in features.items() if getattr(feature, "names", None)}
        label = next((key for key in LABELS if key in named), None) or (next(iter(named)) if len(named) == 1 else None)
        return (named[label], (label,)) if label is not None else (None, ())
    inner = getattr(source, "dataset", None)
    return (None, ()) if inner is None or inner is source else _class_names(inner)


def _reader_of_labels(names: Sequence[str] | None, classes: Classes) -> Callable[[int | str], int]:
    """A function from a label to the index of a class of the model."""
    if names is None or classes.are_numbers or list(names) == list(classes.names):
        return classes.index
    found = classes.indices(list(dict.fromkeys(names)))

    @cache
    def by_name(label: int | str) -> int:
        if isinstance(label, str):
            return classes.index(label)
        if not 0 <= label < len(names):
            raise FolderError(
                f"expected labels below {len(names)}, the classes of the data set, but got {label}; mend it"
            )
        index = found[names[label]]
        if isinstance(index, SettingError):  # try its synonyms
            others = {each for each in classes.indices(synonyms(names[label])).values() if isinstance(each, int)}
            if len(others) != 1:
                raise FolderError(
                    f"expected classes of the model in the data set but none is its {names[label]!r}: {index}; "
                    "rename it, or give (image, label) pairs with the model's own indices"
                )
            (index,) = others
        return index

    return by_name


def _parts(entry: Any, columns: tuple[str, ...]) -> tuple[Any, Any]:
    """The image and the label of an item of a data set."""
    if isinstance(entry, Mapping) and set(entry) - {"bytes", "path"}:
        label = next((key for key in (*columns, *LABELS) if key in entry), None)
        rest = {key: value for key, value in entry.items() if key != label}
        picture = next((key for key in PICTURES if key in rest), None)
        if picture is None and len(rest) == 1:
            picture = next(iter(rest))
        if picture is None:
            raise FolderError(
                f"expected an image in a column {PICTURES[0]!r} but got {', '.join(map(str, entry))}; rename it"
            )
        return entry[picture], None if label is None else entry[label]
    if isinstance(entry, tuple | list):
        if len(entry) != 2:
            raise FolderError(
                f"expected images or (image, label) pairs but got {len(entry)} things each; leave out the others"
            )
        return entry[0], entry[1]
    return entry, None


def _read(source: Any) -> Path | Image.Image:
    if isinstance(source, Mapping):  # an undecoded image of Hugging Face
        source = source.get("bytes") or source.get("path")
    if isinstance(source, str | Path):
        return Path(source)
    return (
        read_image(source, alpha=True) if isinstance(source, bytes) else as_image(source, alpha=True, name="in memory")
    )


def _plain(label: Any) -> int | str:
    """A label as a number or name."""
    if isinstance(label, str):
        return label
    try:
        number = label.item() if hasattr(label, "item") else label
        if int(number) == number:
            return int(number)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        pass
    raise FolderError(
        f"expected a class index or name as a label but got {type(label).__name__} {str(label)[:40]!r}; "
        "give one for each image"
    )

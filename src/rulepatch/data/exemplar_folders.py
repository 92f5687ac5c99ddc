"""Exemplar folders: an image, its mask, the edited image, and metadata."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rulepatch.core.exemplars import Exemplar
from rulepatch.data.picture_files import pictures_in
from rulepatch.errors import ExemplarError
from rulepatch.files import make_folder, write_file
from rulepatch.forms import checked
from rulepatch.images import write_image
from rulepatch.masks import MaskValue, write_mask
from rulepatch.reading import read_json
from rulepatch.text import plural

__all__ = ["read_exemplars", "write_exemplar"]

_ABOUT: dict[Any, Any] = {
    "label?": (int, str, None), "concept?": (str, None), "replacement?": (str, None), "mask_value?": (int, str, None),
    ...: object,
}  # fmt: skip
"""What exemplar.json says."""


def read_exemplars(
    sources: Sequence[Path | str] | Path | str,
    *,
    masks: Sequence[Path | str] = (),
    replacement: Path | str | None = None,
    label: int | str | None = None,
    unedited: bool = False,
    mask_value: MaskValue | None = None,
) -> list[Exemplar]:
    """Read exemplars: folders with `image.*`, `mask.*` and `edited.*`, folders of such folders, or images with masks.

    Args:
        sources: an exemplar folder, a folder of them, an image, or several of these.
        masks: one for each source that is an image, in order.
        replacement: a texture to paint over the concept, instead of the folders' edited images.
        label: label of the images, which overrides that of the folders.
        unedited: do not require edited images (for edits from features); the originals are used in their place.
        mask_value: which colour or number of the masks is the concept, where they have several.

    Returns:
        The exemplars, in order, with label, concept, replacement and mask_value from their `exemplar.json`.

    Raises:
        ExemplarError: a source is missing or lacks a part, or images and masks do not pair.
    """
    paths = [Path(source) for source in ([sources] if isinstance(sources, Path | str) else sources)]
    replacement = None if replacement is None else Path(replacement)
    pictures = [source for source in paths if source.is_file()]
    if len(pictures) != len(masks):
        raise ExemplarError(
            f"expected a mask for each exemplar that is an image but got {plural(len(pictures), 'image')} and "
            f"{plural(len(masks), 'mask')}; give one --mask for each, or use exemplar folders"
        )
    mask_of_next = iter(masks)
    found: list[Exemplar] = []
    for source in paths:
        if source.is_file():
            mask = next(mask_of_next)
            edited = source if unedited else None
            found.append(
                Exemplar.from_files(
                    source, mask=mask, replacement=replacement, edited=edited, label=label, mask_value=mask_value
                )
            )
            continue
        if not source.is_dir():
            raise ExemplarError(f"expected an exemplar folder or image at {source} but there is none; check the path")
        inside = sorted(path for path in source.iterdir() if path.is_dir() and _has_parts(path))
        folders = [source] if _has_parts(source) or not inside else inside
        found += [_read_exemplar(folder, replacement, label, mask_value, unedited=unedited) for folder in folders]
    return found


def write_exemplar(exemplar: Exemplar, folder: Path) -> None:
    """Write an exemplar as a folder, as `read_exemplars` reads it; its mask is rounded to 255 steps.

    Args:
        exemplar: the exemplar.
        folder: made if there is none; files of the same names are replaced.

    Raises:
        OutputError: it cannot be written to.
    """
    make_folder(folder)
    write_image(exemplar.image, folder / "image.png")
    write_image(exemplar.edited, folder / "edited.png")
    write_mask(exemplar.mask, folder / "mask.png")
    about = {"label": exemplar.label, "concept": exemplar.concept, "replacement": exemplar.replacement}
    text = json.dumps({key: value for key, value in about.items() if value is not None}, indent=2)
    write_file(folder / "exemplar.json", text + "\n")


def _part(folder: Path, stem: str) -> Path | None:
    return next(iter(pictures_in(folder, f"{stem}.*")), None)


def _has_parts(folder: Path) -> bool:
    return any(_part(folder, stem) for stem in ("image", "mask", "edited"))


def _read_exemplar(
    folder: Path,
    replacement: Path | None,
    label: int | str | None,
    mask_value: MaskValue | None,
    *,
    unedited: bool = False,
) -> Exemplar:
    image, mask, edited = (_part(folder, stem) for stem in ("image", "mask", "edited"))
    edited = image if unedited else edited
    if image is None or mask is None or (edited is None and replacement is None):
        missing = "image" if image is None else "mask" if mask is None else "edited"
        advice = "add it" if missing != "edited" else "add it, or give a texture as the replacement"
        raise ExemplarError(f"expected an image {missing}.* in the exemplar folder {folder} but found none; {advice}")
    about = _about(folder / "exemplar.json")
    exemplar = Exemplar.from_files(
        image,
        mask=mask,
        replacement=replacement,
        edited=None if replacement is not None else edited,
        label=about.get("label") if label is None else label,
        mask_value=about.get("mask_value") if mask_value is None else mask_value,
    )
    named = replacement.stem if replacement is not None else about.get("replacement")
    return dataclasses.replace(exemplar, concept=about.get("concept"), replacement=named, name=folder.name)


def _about(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    about: dict[str, Any] = checked(
        read_json(path, ExemplarError), _ABOUT, str(path), ExemplarError, advice="mend or remove it"
    )
    return about

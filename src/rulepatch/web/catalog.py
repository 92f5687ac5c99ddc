"""What the page offers, settled when the server starts: models, and the folders whose images may be read."""

import copy
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rulepatch.concepts.segment import Segmenter, load_segmenter
from rulepatch.concepts.stylize import styles
from rulepatch.data.folders import ImageSet
from rulepatch.data.picture_files import pictures_under
from rulepatch.errors import FolderError, RulepatchError, SettingError
from rulepatch.experiments.demo import write_pictures
from rulepatch.forward import device_named
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model
from rulepatch.playground.scenes import TRAIN_STYLES
from rulepatch.playground.styles import GROUNDS, texture
from rulepatch.unfinished import ScratchFolder
from rulepatch.web.recipes import Sources
from rulepatch.web.workbench import Workbench

__all__ = ["PLAYGROUND", "Catalog", "Place", "pictures_of"]

PLAYGROUND = "playground"
"""The model that is always offered, with images of its own."""


@dataclass(frozen=True)
class Place:
    """Data of a workbench.

    Attributes:
        sources: as the command line calls them.
        folders: the same folders, by the names that the page gives them.
        segmenter: finds concepts by name; none if None.
        textures: what can be painted over a concept, with their names.
    """

    sources: Sources
    folders: dict[str, Path]
    segmenter: Segmenter | None
    textures: tuple[tuple[str, Image.Image], ...]


class Catalog:
    """Models and folders that the server offers: those named at its start.

    Args:
        models: names, or files, besides the playground.
        reference: folder of images whose treatment should stay; all models but the playground need it.
        tests: folder of labelled images that edits should repair.
        clean: folder of labelled images on which damage is measured.
        validation: folder of labelled images that a search chooses on.
        segmenter: name of a segmenter, to find concepts by name.
        device: where models run.

    Raises:
        FolderError: a folder is missing or empty, tests have no labels, or models are named without a reference set.
        ModelError: there is no such model.
        SettingError: there is no such segmenter, or no such device.
    """

    def __init__(
        self,
        models: Sequence[str] = (),
        *,
        reference: Path | None = None,
        tests: Path | None = None,
        clean: Path | None = None,
        validation: Path | None = None,
        segmenter: str | None = None,
        device: str = "cpu",
    ) -> None:
        given = {"reference": reference, "tests": tests, "clean": clean, "validation": validation}
        for name, folder in given.items():
            if folder is not None:
                _check(name, folder)
        if models and reference is None:
            raise FolderError(
                f"expected images whose treatment should stay, to edit {', '.join(models)}, but got none; name their "
                "folder by --reference"
            )
        self.models = tuple(dict.fromkeys([PLAYGROUND, *models]))
        self._folders = {name: folder for name, folder in given.items() if folder is not None}
        device_named(device)
        self._device = device
        self._segmenter = None if segmenter is None else load_segmenter(segmenter, device=device)
        self._playground = ScratchFolder()
        self._loaded: dict[str, tuple[Classifier, Place]] = {}
        self._lock = threading.Lock()
        self._textures = tuple((each.name, each.picture) for each in styles() if each.picture is not None)
        with ExitStack() as begun:
            begun.callback(self.close)
            for model in models:  # what cannot be shown is said now, not to the first visitor
                self.set_up(model)[0].close()
            begun.pop_all()

    def close(self) -> None:
        """Remove the playground's images and release the models."""
        self._playground.cleanup()
        self._loaded.clear()

    def warm_up(self) -> None:
        """Load the first model in advance."""
        with suppress(RulepatchError, OSError):  # reported when the page is opened
            self.set_up(self.models[0])[0].close()

    def set_up(self, model: str) -> tuple[Workbench, Place]:
        """A workbench with a model of its own.

        Args:
            model: one of those offered.

        Returns:
            The workbench and its data.

        Raises:
            SettingError: the model is not offered.
        """
        if model not in self.models:
            raise SettingError(f"expected one of {', '.join(self.models)} but got {model!r}; choose from the list")
        with self._lock:  # load models and draw images once for all sessions
            if model not in self._loaded:
                loaded = load_model(model, device=self._device)
                place = self._playground_place(loaded) if model == PLAYGROUND else self._place(model)
                self._loaded[model] = loaded, place
            pristine, place = self._loaded[model]
            own = pristine.with_module(copy.deepcopy(pristine.module))
        reference, tests, clean, validation = map(place.folders.get, ("reference", "tests", "clean", "validation"))
        return Workbench(own, reference, tests, clean, validation), place

    def _place(self, model: str) -> Place:
        named = {name: str(folder) for name, folder in self._folders.items()}
        return Place(Sources(model, **named), self._folders, self._segmenter, self._textures)

    def _playground_place(self, model: Classifier) -> Place:
        root = Path(self._playground.name)
        write_pictures(root, model.classes)
        names = ("reference", "tests", "clean")
        sources = Sources(PLAYGROUND, **{name: f"rulepatch-demo/{name}" for name in names}, first="rulepatch demo")
        own = tuple((ground, _drawn(ground, seed)) for ground in GROUNDS for seed in range(2))
        folders = {name: root / name for name in names}
        return Place(sources, folders, load_segmenter("playground"), own + self._textures)


def _check(name: str, folder: Path) -> None:
    """Refuse a folder that no model can be shown."""
    if not folder.is_dir():
        raise FolderError(f"expected a folder for --{name} but {folder} is none; check the path")
    pictures = pictures_under(folder).pictures
    if not pictures:
        raise FolderError(f"expected images in {folder} for --{name} but found none; put them there")
    if name in {"tests", "validation"} and any(path.parent == folder for path in pictures):
        raise FolderError(
            f"expected labelled images for --{name} but those in {folder} have no labels; put them into a folder for "
            "each class"
        )


def _drawn(ground: str, seed: int) -> Image.Image:
    """A ground of the playground that no scene of its training world has."""
    return Image.fromarray((255 * texture(ground, seed=TRAIN_STYLES.stop + seed)).round().astype(np.uint8))


def pictures_of(place: Place, folder: str, model: Classifier) -> ImageSet:
    """The images of one of the folders.

    Args:
        place: what the workbench was set up with.
        folder: the name that the page gives it.
        model: the classifier.

    Raises:
        SettingError: there is no such folder.
    """
    if folder not in place.folders:
        raise SettingError(f"expected one of {', '.join(place.folders)} but got {folder!r}; choose from the list")
    return ImageSet.of(place.folders[folder], model.classes)

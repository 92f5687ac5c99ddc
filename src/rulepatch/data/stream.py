"""Batches of pixels from sets of pictures; the next are read and decoded while the last are computed with."""

import logging
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from tqdm.auto import tqdm

from rulepatch.data.folders import ImageSet, Picture
from rulepatch.errors import FolderError, ImageError
from rulepatch.images import read_image
from rulepatch.models.classifier import Preprocess

__all__ = ["Batch", "ImageStream"]

LARGEST_UNREADABLE_SHARE = 0.01
log = logging.getLogger("rulepatch")
Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Batch:
    """Some pictures of a set.

    Attributes:
        pictures: which they are.
        pixels: (n, 3, height, width), float32, 0..1.
    """

    pictures: tuple[Picture, ...]
    pixels: Tensor


class ImageStream:
    """The pictures of a set, in order, in batches.

    Pictures that cannot be read are named in the log, counted and skipped; more than one in a hundred of them stop the
    run.

    Args:
        images: the set.
        preprocess: frames the pictures.
        batch_size: pictures in a batch; the last may be smaller.
        progress: what the progress bar on standard error says; none if None, or if that is no terminal.

    Attributes:
        skipped: the pictures that could not be read, so far.

    Raises:
        FolderError: (while iterating) more than 1 % of the pictures cannot be read.

    Examples:
        >>> from PIL import Image
        >>> images = ImageSet(tuple(Picture(Image.new("RGB", (9, 9))) for _ in range(5)), "five")
        >>> [len(batch.pixels) for batch in ImageStream(images, Preprocess((8, 8)), batch_size=2)]
        [2, 2, 1]
    """

    def __init__(
        self, images: ImageSet, preprocess: Preprocess, *, batch_size: int = 32, progress: str | None = None
    ) -> None:
        self.images = images
        self.preprocess = preprocess
        self.batch_size = batch_size
        self.progress = progress
        self.skipped: list[Picture] = []

    def __iter__(self) -> Iterator[Batch]:
        self.skipped = []
        waiting: list[tuple[Picture, Tensor]] = []
        bar = tqdm(
            total=len(self.images), desc=self.progress, unit="image", delay=2, disable=None if self.progress else True
        )
        with bar:
            for picture, pixels in zip(
                self.images.pictures, _ahead(self._pixels, self.images.pictures, 2 * self.batch_size), strict=True
            ):
                if isinstance(pixels, ImageError):
                    self._skip(picture, pixels)
                else:
                    waiting.append((picture, pixels))
                if len(waiting) == self.batch_size:
                    yield _batch(waiting)
                    waiting = []
                bar.update()
            if waiting:
                yield _batch(waiting)

    def _pixels(self, picture: Picture) -> Tensor | ImageError:
        try:
            source = picture.source
            return self.preprocess.pixels(read_image(source) if isinstance(source, Path) else source)
        except ImageError as error:
            return error

    def _skip(self, picture: Picture, error: ImageError) -> None:
        self.skipped.append(picture)
        allowed = math.floor(LARGEST_UNREADABLE_SHARE * len(self.images))
        if len(self.skipped) > allowed:
            raise FolderError(
                f"expected at most {allowed} unreadable pictures among the {len(self.images)} of {self.images.name} "
                f"but got {len(self.skipped)}, the last {picture.name}; mend or remove them"
            )
        log.warning("skipped %s: %s", picture.name, error)


def _batch(waiting: list[tuple[Picture, Tensor]]) -> Batch:
    return Batch(tuple(picture for picture, _ in waiting), torch.stack([pixels for _, pixels in waiting]))


def _ahead(function: Callable[[Given], Made], items: Iterable[Given], ahead: int) -> Iterator[Made]:
    """Map a function over items in other threads, in order, at most so many items ahead of their use."""
    pending: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

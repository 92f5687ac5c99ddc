"""What a network had computed of some pictures when it reached some sites, so that an edit costs only a tail."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils._pytree import tree_map

from rulepatch.core.edit import Edit
from rulepatch.core.installation import Installation
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.data.stream import ImageStream
from rulepatch.evaluation.outcomes import Outcomes, Predictions
from rulepatch.models.classifier import Classifier
from rulepatch.tracing import capture
from rulepatch.tracing.trace import Trace

__all__ = ["Activations", "first_site"]

MOST_BYTES = 1 << 30
"""Activations kept in memory; those beyond go to disk."""


def first_site(traced: Trace, edit: Edit) -> str:
    """The site of an edit that a forward pass reaches first; the first module of all for an edit of nothing.

    Args:
        traced: a trace of the model.
        edit: the edit.
    """
    starts = {traced.calls_of(site)[0]: site for site in edit.sites if traced.calls_of(site)}
    return starts[min(starts)] if starts else traced.calls[1].path


@dataclass(frozen=True)
class _Kept:
    """Stands for a tensor that was put into a shelf."""

    number: str
    dtype: torch.dtype


class _Shelf:
    """Tensors of one batch, each once however often it is needed; in half precision, in memory or in a file."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._numbers: dict[int, str] = {}
        self._alive: list[Tensor] = []  # so that no other tensor takes the address of one that was put here
        self._file: Path | None = None

    def put(self, leaf: Any) -> Any:
        """Put a tensor here, unless it is a placeholder; anything else stays as it is."""
        if not isinstance(leaf, Tensor) or leaf.is_meta:
            return leaf
        if id(leaf) not in self._numbers:
            self._numbers[id(leaf)] = str(len(self._numbers))
            self._alive.append(leaf)
            self.tensors[self._numbers[id(leaf)]] = _halved(leaf)
        return _Kept(self._numbers[id(leaf)], leaf.dtype)

    def close(self) -> int:
        """No more will be put here."""
        self._alive.clear()
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def to_disk(self, path: Path) -> None:
        """Move everything to a file."""
        save_file({number: tensor.contiguous() for number, tensor in self.tensors.items()}, path)
        self.tensors, self._file = {}, path

    def restored(self, tree: Any, device: torch.device) -> Any:
        """What was put here, in the place of what stands for it."""
        if self._file is None:
            return _restored(tree, self.tensors.__getitem__, device)
        with safe_open(self._file, framework="pt") as file:
            return _restored(tree, file.get_tensor, device)


def _restored(tree: Any, read: Callable[[str], Tensor], device: torch.device) -> Any:
    return tree_map(lambda leaf: read(leaf.number).to(device, leaf.dtype) if isinstance(leaf, _Kept) else leaf, tree)


def _halved(tensor: Tensor) -> Tensor:
    """In half precision where that loses little: numbers too large for it stay as they are."""
    if tensor.dtype not in {torch.float32, torch.float64}:
        return tensor
    half = tensor.half()
    return half if bool(half.isfinite().all()) or not bool(tensor.isfinite().all()) else tensor


class Activations:
    """Pictures as some sites see them: one pass of the network, and then a tail for each edit of these sites.

    Activations are kept in half precision, in memory as far as there is room and on disk beyond it. Predictions before
    an edit are computed from the same rounded activations, so that rounding alone flips nothing.

    Use it in a `with` block: its end removes what is on disk.

    Args:
        model: the classifier; it is edited for a while and then as it was.
        images: the pictures.
        sites: dotted paths; edits may be made at these and at any after them.
        most_bytes: memory to use.
        progress: what the bar says; none if None.

    Examples:
        >>> from rulepatch.core.edit import base_digest
        >>> from rulepatch.models.registry import load_model
        >>> from rulepatch.playground.pictures import training_images
        >>> model = load_model("playground")
        >>> with Activations(model, training_images(8, seed=3), ["blocks.5.conv"]) as kept:
        ...     len(kept.outcomes(Edit((), base_digest(model.module))).flips)
        0
    """

    def __init__(
        self,
        model: Classifier,
        images: ImageSet,
        sites: Sequence[str],
        *,
        most_bytes: int = MOST_BYTES,
        progress: str | None = None,
    ) -> None:
        self.model = model
        self.images = images
        self._traced = capture.trace(model.module, model.example())
        order = {site: self._traced.calls_of(site)[0] for site in sites}
        self._plans = {
            site: capture.plan_tail(self._traced, site) for site in sorted(order, key=lambda site: order[site])
        }
        self._order = order
        self._folder: tempfile.TemporaryDirectory[str] | None = None  # made when memory is full
        self._shelves: list[_Shelf] = []
        self._starts: dict[str, list[capture.Checkpoint]] = {site: [] for site in self._plans}
        self._pictures: list[Picture] = []
        self._sizes: list[int] = []
        self._untouched: dict[str, Predictions] = {}
        try:
            self._fill(most_bytes, progress)
        except BaseException:
            self.close()
            raise

    def _fill(self, most_bytes: int, progress: str | None) -> None:
        stream = ImageStream.of(self.model, self.images, progress)
        plans = list(self._plans.values())
        for batch in stream:
            _, starts = capture.checkpoint(self.model.module, plans, self.model.inputs(batch.pixels))
            shelf = _Shelf()
            for site, start in zip(self._plans, starts, strict=True):
                inputs, results = tree_map(shelf.put, (start.inputs, start.results))
                self._starts[site].append(capture.Checkpoint(inputs, results))
            most_bytes -= shelf.close()
            if most_bytes < 0:
                self._folder = self._folder or tempfile.TemporaryDirectory(prefix="rulepatch-")
                shelf.to_disk(Path(self._folder.name) / f"{len(self._shelves)}.safetensors")
            self._shelves.append(shelf)
            self._pictures += batch.pictures
            self._sizes.append(len(batch.pictures))
        self._skipped = tuple(picture.name for picture in stream.skipped)

    def __len__(self) -> int:
        return len(self._pictures)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove what is on disk; of no use afterwards."""
        if self._folder is not None:
            self._folder.cleanup()

    @cached_property
    def _labels(self) -> list[int | None]:
        return [picture.label for picture in self._pictures]

    def start_of(self, edit: Edit) -> str:
        """The site to start again from for an edit: the last of those kept that comes before or at its first site."""
        first = first_site(self._traced, edit) if edit.sites else list(self._plans)[-1]
        reached = self._traced.calls_of(first)[0]
        before = [site for site in self._plans if self._order[site] <= reached]
        assert before, f"no activations are kept at or before {first}"
        return before[-1]

    def outcomes(self, edit: Edit) -> Outcomes:
        """What the model says of the pictures before and after an edit; unchecked.

        Args:
            edit: it fits the model.
        """
        site = self.start_of(edit)
        if site not in self._untouched:
            self._untouched[site] = self._predictions(site)
        with Installation(self.model.module, edit.changes):
            after = self._predictions(site, edit.new_classes)
        return Outcomes(self.images.name, tuple(self._pictures), self._untouched[site], after, self._skipped)

    def _predictions(self, site: str, new_classes: Sequence[str] = ()) -> Predictions:
        model = self.model.with_module(self.model.module, new_classes)
        labels: Iterator[int | None] = iter(self._labels)
        pieces = []
        for shelf, start, size in zip(self._shelves, self._starts[site], self._sizes, strict=True):
            inputs, results = shelf.restored((start.inputs, start.results), self.model.device)
            output = capture.resume(self.model.module, self._plans[site], capture.Checkpoint(inputs, results))
            own = [next(labels) for _ in range(size)]
            pieces.append(Predictions.of(model.logits_of(output), own))
        return Predictions.join(pieces)

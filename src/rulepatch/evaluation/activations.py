"""Cached activations at some sites, so that evaluating an edit costs only the rest of the forward pass."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils._pytree import tree_map

from rulepatch.core.edit import Edit
from rulepatch.core.patched_model import PatchedModel
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.data.stream import ImageStream
from rulepatch.evaluation.outcomes import Outcomes, Predictions
from rulepatch.files import write_tensors
from rulepatch.models.classifier import Classifier
from rulepatch.tracing import capture, tails
from rulepatch.tracing.trace import Trace
from rulepatch.unfinished import ScratchFolder

__all__ = ["MOST_BYTES", "Activations", "first_site"]

MOST_BYTES = 1 << 30
"""Most bytes of activations in memory; the rest is stored on disk."""


def first_site(traced: Trace, edit: Edit) -> str:
    """The first site of an edit in the forward pass; the network's first module for an empty edit.

    Args:
        traced: a trace of the model.
        edit: the edit.
    """
    starts = {traced.calls_of(site)[0]: site for site in edit.sites if traced.calls_of(site)}
    return starts[min(starts)] if starts else traced.calls[1].path


@dataclass(frozen=True)
class _Kept:
    """Placeholder of a stored tensor."""

    number: str
    dtype: torch.dtype


class _Shelf:
    """Deduplicated tensors of one batch in half precision, in memory or in a file."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._numbers: dict[int, str] = {}
        self._alive: list[Tensor] = []  # keeps the addresses of stored tensors from being reused
        self._file: Path | None = None

    def put(self, leaf: Any) -> Any:
        """Store a tensor, unless it is a placeholder; other values are returned unchanged."""
        if not isinstance(leaf, Tensor) or leaf.is_meta:
            return leaf
        if id(leaf) not in self._numbers:
            self._numbers[id(leaf)] = str(len(self._numbers))
            self._alive.append(leaf)
            self.tensors[self._numbers[id(leaf)]] = _halved(leaf)
        return _Kept(self._numbers[id(leaf)], leaf.dtype)

    def close(self) -> int:
        """Finish storing."""
        self._alive.clear()
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def to_disk(self, path: Path) -> None:
        """Move all tensors to a file."""
        write_tensors(path, self.tensors, {})
        self.tensors, self._file = {}, path

    def restored(self, tree: Any, device: torch.device) -> Any:
        """Replace placeholders by the stored tensors."""
        if self._file is None:
            return _restored(tree, self.tensors.__getitem__, device)
        # mapped, as it is large, of one process and in a folder that only its user can write to
        with safe_open(self._file, framework="pt") as file:
            return _restored(tree, file.get_tensor, device)


def _restored(tree: Any, read: Callable[[str], Tensor], device: torch.device) -> Any:
    return tree_map(lambda leaf: read(leaf.number).to(device, leaf.dtype) if isinstance(leaf, _Kept) else leaf, tree)


def _halved(tensor: Tensor) -> Tensor:
    """Convert to half precision, unless values exceed its range."""
    if tensor.dtype not in {torch.float32, torch.float64}:
        return tensor
    half = tensor.half()
    return half if bool(half.isfinite().all()) or not bool(tensor.isfinite().all()) else tensor


class Activations:
    """Cached activations of images: one full forward pass, then only the rest of the network for each edit.

    Activations are kept in half precision, in memory up to a limit and on disk beyond it. Predictions before an edit
    are computed from the same rounded activations, so that rounding alone cannot flip a prediction.

    A context manager, which removes files on exit.

    Args:
        model: the classifier; it is edited temporarily and restored.
        images: the images.
        sites: dotted paths; edits may change these and any later layers.
        most_bytes: limit of memory.
        progress: description of the progress bar; no bar if None.

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
            site: tails.plan_suffix(self._traced, site) for site in sorted(order, key=lambda site: order[site])
        }
        self._order = order
        self._folder: ScratchFolder | None = None  # created when memory is full
        self._shelves: list[_Shelf] = []
        self._starts: dict[str, list[tails.Checkpoint]] = {site: [] for site in self._plans}
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
                self._starts[site].append(tails.Checkpoint(inputs, results))
            most_bytes -= shelf.close()
            if most_bytes < 0:
                self._folder = self._folder or ScratchFolder()
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
        """Remove files; the object cannot be used afterwards."""
        if self._folder is not None:
            self._folder.cleanup()

    @cached_property
    def _labels(self) -> list[int | None]:
        return [picture.label for picture in self._pictures]

    def start_of(self, edit: Edit) -> str:
        """The site to resume from for an edit: the last cached one that is not after its first site."""
        first = first_site(self._traced, edit) if edit.sites else list(self._plans)[-1]
        reached = self._traced.calls_of(first)[0]
        before = [site for site in self._plans if self._order[site] <= reached]
        assert before, f"no activations are kept at or before {first}"
        return before[-1]

    def outcomes(self, edit: Edit) -> Outcomes:
        """Predictions before and after an edit, without checks.

        Args:
            edit: it fits the model.
        """
        site = self.start_of(edit)
        if site not in self._untouched:
            self._untouched[site] = self._predictions(site)
        with PatchedModel(self.model.module, edit.changes):
            after = self._predictions(site, edit.new_classes)
        return Outcomes(self.images.name, tuple(self._pictures), self._untouched[site], after, self._skipped)

    def _predictions(self, site: str, new_classes: Sequence[str] = ()) -> Predictions:
        model = self.model.with_module(self.model.module, new_classes)
        labels: Iterator[int | None] = iter(self._labels)
        pieces = []
        for shelf, start, size in zip(self._shelves, self._starts[site], self._sizes, strict=True):
            inputs, results = shelf.restored((start.inputs, start.results), self.model.device)
            output = capture.run_suffix(self.model.module, self._plans[site], tails.Checkpoint(inputs, results))
            own = [next(labels) for _ in range(size)]
            pieces.append(Predictions.of(model.logits_of(output), own))
        return Predictions.join(pieces)

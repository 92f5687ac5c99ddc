"""Does predicted damage rank edits better as the output feels it? `python -m benchmarks.felt_damage`.

Predicted damage is tr(ΔW C ΔWᵀ) / tr(W C Wᵀ): a share of the site's output, whatever the network makes of it.
With G, the second moment of the gradients of log p(y | x) by the output at one position, y drawn from the network's own
predictions (Fisher), ½·P·tr(G ΔW C ΔWᵀ) is the second-order divergence of the predictions, if keys and gradients are
independent and P positions add up without correlation (Kronecker factors, after Martens and Grosse 2015, Grosse and
Martens 2016). Both are closed forms of one pass over the reference set; each is compared with the predictions that flip
on images that gave neither. About ten minutes on two cores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.cases import PlaygroundRule
from benchmarks.measure import DATA, arguments, record
from rulepatch.core import linalg
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.core.moments import KeyStatistics
from rulepatch.data.exemplar_folders import read_exemplars
from rulepatch.data.folders import ImageSet
from rulepatch.data.run import Run
from rulepatch.data.statistics import key_statistics
from rulepatch.data.stream import ImageStream
from rulepatch.editors.edit import rewrite
from rulepatch.evaluation.evaluate import outcomes_of
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import training_images
from rulepatch.tracing import capture
from rulepatch.tracing.model_sites import sites_of
from rulepatch.tracing.sites import flatten_positions, key_axis

SITES = 10
"""As many, from the first to the last."""

RANKS, STRENGTHS = (1, 3), (1.0, 2.0, 4.0)
RULES = 4
"""Of the playground."""

FEW = 0.05
"""Share of flips up to which an edit is of any use."""

PHOTOGRAPHS = 250
"""On which flips are counted on the real network."""


@dataclass(frozen=True)
class Gradients:
    """Of a site's output: the second moment of its positions, (c_out, c_out), and how many an image has."""

    moment: Tensor
    positions: int


def felt(delta: Tensor, moment: Tensor, gradients: Gradients) -> float:
    """½·P·tr(G ΔW C ΔWᵀ), summed over the taps of a kernel.

    Args:
        delta: ΔW, (c_out, c_in, y, x).
        moment: C, of keys, (c_in, c_in).
        gradients: G and P.

    Returns:
        The divergence of the predictions that is expected, in nats.
    """
    taps = delta.double().flatten(2)
    return 0.5 * gradients.positions * float(torch.einsum("ait,ij,bjt,ab->", taps, moment, taps, gradients.moment))


def gradients_of(model: Classifier, images: ImageSet, sites: Sequence[str], *, seed: int = 0) -> dict[str, Gradients]:
    """Second moments of the gradients at some sites, for labels drawn from the model's own predictions."""
    axes = {site.path: key_axis(site.kind) for site in sites_of(model).sites if site.path in sites}
    sums, counts, positions = dict.fromkeys(sites, torch.zeros(())), dict.fromkeys(sites, 0), dict.fromkeys(sites, 0)
    generator, outputs = torch.Generator().manual_seed(seed), dict[str, Tensor]()

    def keep(path: str) -> Any:
        def hook(module: Any, args: Any, output: Tensor) -> Tensor:
            outputs[path] = output
            return output.clone()  # what follows may write into it

        return hook

    handles = [model.module.get_submodule(path).register_forward_hook(keep(path)) for path in sites]
    try:
        for batch in ImageStream.of(model, images, None):
            with capture.inference(model.module, gradients=True):
                inputs = model.inputs(batch.pixels).requires_grad_()
                logs = model.logits(inputs).double().log_softmax(dim=1)
                labels = torch.multinomial(logs.detach().exp().cpu(), 1, generator=generator).to(logs.device)
                found = torch.autograd.grad(logs.gather(1, labels).sum(), [outputs[path] for path in sites])
            for path, gradient in zip(sites, found, strict=True):
                flat = flatten_positions(gradient, axes[path]).flatten(0, 1)
                sums[path] = sums[path] + linalg.second_moment(flat).cpu()
                counts[path] += len(flat)
                positions[path] = len(flat) // len(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {path: Gradients(sums[path] / counts[path], positions[path]) for path in sites}


def cells(
    model: Classifier, exemplars: Sequence[Exemplar], sites: Sequence[str], known: ImageSet, unseen: ImageSet
) -> list[dict[str, Any]]:
    """Each edit's two predictions, and what it did."""
    found = [site for site in sites_of(model).sites if site.path in sites]
    statistics: dict[str, KeyStatistics] = key_statistics(model, known, found, cache=Run().store, progress=False)
    gradients = gradients_of(model, known, sites)
    edits: list[Edit] = []
    for site in found:
        given: dict[str, Any] = {"reference": {site.path: statistics[site.path]}, "site": site.path, "gate": None}
        made = [rewrite(model, exemplars, rank=rank, cache=None, progress=False, **given) for rank in RANKS]
        edits += [edit.with_strength(strength) for edit in made for strength in STRENGTHS]
    rows = []
    for edit, seen in zip(edits, outcomes_of(model, edits, unseen), strict=True):
        (change,) = edit.changes
        moment, squared = statistics[change.site].moment.mean().cpu(), change.strength**2
        delta = change.delta().reshape(change.shape)
        rows.append({
            "site": change.site,
            "predicted damage": squared * edit.reports[0].predicted_damage,
            "as the output feels it": felt(delta, moment, gradients[change.site]),
            "flips": len(seen.flips) / len(seen),
        })  # fmt: skip
    return rows


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's; equal values share the mean of their ranks."""

    def ranks(values: Sequence[float]) -> np.ndarray[Any, Any]:
        _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (counts.cumsum() - (counts - 1) / 2)[places]

    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def summary(case: str, tried: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """How well each prediction ranks the edits of a case, all of them and those of each site by themselves."""
    flips = [each["flips"] for each in tried]
    few = [each for each in tried if each["flips"] <= FEW]
    rows = []
    for name in ("predicted damage", "as the output feels it"):
        within = []
        for site in dict.fromkeys(each["site"] for each in tried):
            own = [each for each in tried if each["site"] == site]
            if len({each["flips"] for each in own}) > 1:
                within.append(rank_correlation([each[name] for each in own], [each["flips"] for each in own]))
        rows.append({
            "case": case,
            "prediction": name,
            "edits": len(tried),
            "rho": rank_correlation([each[name] for each in tried], flips),
            "rho within sites": float(sum(within) / len(within)) if within else None,
            "few": len(few),
            "rho of few": rank_correlation([each[name] for each in few], [each["flips"] for each in few]),
            "values": [[each[name], each["flips"]] for each in tried],
        })  # fmt: skip
    return rows


def spread_sites(model: Classifier) -> list[str]:
    """Sites from the first to the last that have places in the image."""
    spatial = [site.path for site in sites_of(model).sites if site.is_spatial]
    count = min(SITES, len(spatial))
    return [spatial[round(i * (len(spatial) - 1) / max(count - 1, 1))] for i in range(count)]


def main() -> None:
    """Measure and record."""
    device = arguments(__doc__ or "").parse_args().device
    model, rows = load_model("playground", device=device), []
    for seed in range(RULES):
        known, unseen = training_images(600, seed=seed + 500), training_images(600, seed=seed + 900)
        exemplars = PlaygroundRule.of(seed, tests=10).exemplars
        rows += summary(f"playground, rule {seed}", cells(model, exemplars, spread_sites(model), known, unseen))
    model = load_model(str(DATA / "models" / "mobilenet_v2.toml"), device=device)
    exemplars = read_exemplars([DATA / "snow" / "exemplar"])
    own = {model.classes.index(one.label) for one in exemplars if one.label is not None}
    known, unseen = ImageSet.of(DATA / "imagenet_sample" / "val", model.classes).without(own).split(0.5, seed=0)
    found = cells(model, exemplars, spread_sites(model), known, unseen.sample(PHOTOGRAPHS, seed=0))
    rows += summary("MobileNetV2, snow", found)
    record("felt-damage", device, rows)


if __name__ == "__main__":
    main()

"""The inverse direction measured (thesis ch. 3): `python -m benchmarks.inverse`.

From the layer's output for an exemplar's original picture its input is rebuilt: single keys, the feature map, the
picture. Before an edit it resembles the original's input; after one in the inverse direction it should resemble the
edited picture's. Two depths of the playground (vans on snow) and of SqueezeNet (road to snow, wheels to wood: the
thesis's own rule). Each edit is made from one exemplar, with the settings that are best on the *other* exemplars of the
network, by the mean cosine of rebuilt keys and feature maps to the edited picture's. Intervals are over exemplars
(bootstrap). About half an hour on one core; `--network` and `--method` measure some alone.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.measure import DATA, RESULTS, arguments, record
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.core.moments import KeyStatistics
from rulepatch.data.exemplar_folders import read_exemplars
from rulepatch.data.folders import ImageSet
from rulepatch.data.run import Run
from rulepatch.data.statistics import key_statistics
from rulepatch.editors.assembling import assembled
from rulepatch.editors.edit import edit
from rulepatch.editors.problem import Problem, build_problem
from rulepatch.editors.registry import Solution, editor_named
from rulepatch.evaluation.evaluate import outcomes_of
from rulepatch.experiments.demo import scenes_on_snow
from rulepatch.inverse import fourier
from rulepatch.inverse.convolution import convolution_at, edit_convolution, power_spectrum_at
from rulepatch.inverse.reconstruct import invert, reconstruct
from rulepatch.inverse.result import Level, Reconstruction
from rulepatch.methods import InverseFourier
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import exemplar, image_set, training_images
from rulepatch.tracing.model_sites import sites_of

SEED, REFERENCE, STEPS, PICTURE_STEPS = 0, 250, 100, 50
RUN = Run(seed=SEED, progress=False)

GRIDS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "rewrite": [{"rank": rank, "gate": None} for rank in (1, 3)],
    "inverse-transpose": [{"rank": rank} for rank in (1, 3)],
    "inverse-pinv": [{"rank": rank} for rank in (1, 3, 10, 30)],
    "inverse-fourier": [{"balance": 1.0, "strength": strength} for strength in (1.0, 5.0)],
    "inverse-fourier, fitted": [{"balance": balance, "fitted": True} for balance in (0.1, 10.0)],
    "inverse-pinv, architecture 3": [{"rank": 1, "architecture": 3}],
    "inverse-transpose, architecture 3": [{"rank": 1, "architecture": 3}],
}

WHOLE_KERNEL = "inverse-fourier, whole kernel"


@dataclass(frozen=True, eq=False)
class Network:
    """What a network is measured on."""

    model: Classifier
    sites: tuple[str, str]
    exemplars: Sequence[Exemplar]
    reference: ImageSet
    repairing: Sequence[int]
    tests: ImageSet


def playground() -> Network:
    """Eight vans on snow."""
    vans = [exemplar("van", ground="snow", seed=100 + i) for i in range(8)]
    tests = image_set(scenes_on_snow(40, seed=SEED + 1), "vehicles on snow")
    sites = ("blocks.3.conv", "blocks.5.conv")
    return Network(load_model("playground"), sites, vans, training_images(REFERENCE, seed=SEED), range(8), tests)


def squeezenet(device: str) -> Network:
    """Three of road to snow, three of wheels to wood; photographs on snow as tests of the former."""
    model = load_model(str(DATA / "models" / "squeezenet1_0.toml"), device=device)
    exemplars = read_exemplars([DATA / "snow" / "exemplar", DATA / "wheels"])
    own = {model.classes.index(one.label) for one in exemplars if one.label is not None}
    sample = ImageSet.of(DATA / "imagenet_sample" / "val", model.classes).without(own).sample(REFERENCE, seed=SEED)
    sites = ("features.9.expand3x3", "features.12.expand3x3")
    tests = ImageSet.of(DATA / "snow" / "test", model.classes)
    return Network(model, sites, exemplars, sample, range(3), tests)


class Bench:
    """Edits of a network at a site, with statistics taken once."""

    def __init__(self, network: Network, site: str) -> None:
        self.network, self.site = network, site
        where = sites_of(network.model).site(site)
        self.statistics: dict[int, dict[str, KeyStatistics]] = {
            architecture: key_statistics(
                network.model, network.reference, [where], architecture=architecture, seed=SEED
            )
            for architecture in (1, 2)
        }  # fmt: skip
        self.power = power_spectrum_at(network.model, network.reference, where)

    def grid(self, method: str) -> list[Mapping[str, Any]]:
        """The settings to try: those whose rank every exemplar's marked positions allow."""
        counts = [min(self.problem(one).observations[0].concept_keys(2)[0].shape) for one in self.network.exemplars]
        return [settings for settings in GRIDS[method] if settings.get("rank", 1) <= min(counts)]

    def edit(self, method: str, one: Exemplar, settings: Mapping[str, Any]) -> Edit:
        """An edit from one exemplar."""
        name = method.partition(",")[0]
        how = editor_named(name).settings(**settings)
        if isinstance(how, InverseFourier):
            return self._fourier(one, how)
        known: Any = self.statistics[1 if name == "rewrite" else 2]
        reference = self.network.reference if settings.get("architecture") == 3 else known
        return edit(self.network.model, [one], reference=reference, site=self.site, how=how, run=RUN)

    def problem(self, one: Exemplar, how: InverseFourier = InverseFourier()) -> Problem:  # noqa: B008 - it is frozen
        """The problem of one exemplar, with statistics of patches."""
        return build_problem(self.network.model, [one], self.site, how, reference=self.statistics[2], run=RUN)

    def _fourier(self, one: Exemplar, how: InverseFourier) -> Edit:
        problem = self.problem(one, how)
        change, about = edit_convolution(problem, problem.observations[0], self.power, how)
        return assembled(problem, how, Solution([change], {"inverse": [about]}))

    def inverted(self, one: Exemplar, edit: Edit | None, level: Level, architecture: int = 4) -> Reconstruction:
        """What is rebuilt after an edit; before any, if there is none."""
        steps = PICTURE_STEPS if level == "image" else STEPS
        found = invert(
            self.network.model, [one], site=self.site, edit=edit, levels=[level], steps=steps, before=False, seed=SEED,
            progress=False, architecture=architecture,
        )  # fmt: skip
        return found.reconstructions[0]

    def whole_kernel(self, one: Exemplar, settings: Mapping[str, Any]) -> tuple[list[float], list[float]]:
        """Feature maps rebuilt through a circular convolution with the whole kernel, which no layer can hold.

        Returns:
            Cosine to the edited and to the original picture's inputs, before the edit and after it.
        """
        (seen,) = self.problem(one).observations
        how = InverseFourier(**settings)
        found = convolution_at(seen, self.power, balance=how.balance, cutoff=how.cutoff, floor=how.floor)
        target = fourier.convolve(found.response, found.originals)
        size = target.square().sum()
        start = 0.01 * found.originals.std() * torch.randn(
            found.originals.shape, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64
        )  # fmt: skip
        unit = float(found.originals.square().mean().sqrt())
        ends = []
        for response in (found.response, found.response + found.change):

            def loss(keys: torch.Tensor, response: torch.Tensor = response) -> torch.Tensor:
                return (fourier.convolve(response, keys) - target).square().sum() / size

            keys = reconstruct(loss, start, steps=STEPS, unit=unit)
            ends.append([cosine(found.marks, keys, other) for other in (found.edited, found.originals)])
        return ends[0], ends[1]


def cosine(marks: fourier.MaskedPositions, keys: torch.Tensor, other: torch.Tensor) -> float:
    """Mean cosine at the marked positions."""
    each = torch.nn.functional.cosine_similarity(marks.of(keys), marks.of(other), dim=1)
    return float(marks.weights @ each / marks.weights.sum())


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean, and the middle 95 % of means of exemplars drawn again."""
    drawn = np.random.default_rng(SEED).choice(np.array(values), (4000, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"mean": float(np.mean(values)), "low": float(low), "high": float(high)}


def chosen(scores: Mapping[int, Sequence[float]], held_out: int) -> int:
    """Which setting is best on the other exemplars."""
    others = [values for index, values in scores.items() if index != held_out]
    return int(np.argmax(np.mean(others, axis=0)))


Table = list[dict[str, Any]]


def measured(name: str, network: Network, methods: Sequence[str]) -> tuple[Table, Table, Table]:
    """The reconstructions, what boundaries and few taps cost, and what the edits repair, at both depths."""
    rows, costs, repairs = Table(), Table(), Table()
    everyone = range(len(network.exemplars))
    for site in network.sites:
        bench = Bench(network, site)
        before: dict[tuple[int, Level, int], Reconstruction] = {}
        for method in methods:
            grid, architecture = bench.grid(method), 3 if "architecture 3" in method else 4
            levels: Sequence[Level] = ("key", "map") if architecture == 3 else ("key", "map", "image")
            for index in tqdm(everyone, desc=f"{site}: before"):
                for level in levels:
                    if (index, level, architecture) not in before:
                        found = bench.inverted(network.exemplars[index], None, level, architecture)
                        before[index, level, architecture] = found
            edits, after = {}, {}
            for index in tqdm(everyone, desc=f"{site}: {method}"):
                one = network.exemplars[index]
                edits[index] = [bench.edit(method, one, settings) for settings in grid]
                after |= {
                    (index, number, level): bench.inverted(one, edit, level, architecture)
                    for number, edit in enumerate(edits[index])
                    for level in ("key", "map")
                }  # fmt: skip
            best = best_settings(after, len(everyone), len(grid))
            final = {index: edits[index][best[index]] for index in everyone}
            about = {"network": name, "site": site, "method": method, "n": len(everyone)}
            about["chosen"] = [dict(grid[best[index]]) for index in everyone]
            for level in levels:
                starts = [before[index, level, architecture] for index in everyone]
                ends = [
                    bench.inverted(network.exemplars[index], final[index], level)
                    if level == "image"
                    else after[index, best[index], level]
                    for index in tqdm(everyone, desc=level)
                ]
                rows.append(about | {"level": level} | numbers(starts, ends))
            repairs.append(about | repaired(network, [final[index] for index in network.repairing]))
            if method.startswith("inverse-fourier"):
                costs.append(about | cost([final[index].provenance["inverse"][0] for index in everyone]))
            if method == "inverse-fourier":
                pairs = [bench.whole_kernel(network.exemplars[i], grid[best[i]]) for i in everyone]
                rows.append(about | {"method": WHOLE_KERNEL, "level": "map"} | of_pairs(pairs))
            print(json.dumps([row for row in rows if row["site"] == site and row["method"] == method]), flush=True)
    return rows, costs, repairs


def best_settings(after: Mapping[tuple[int, int, str], Reconstruction], exemplars: int, settings: int) -> list[int]:
    """For each exemplar the setting that is best on all others."""
    scores = {
        index: [
            float(np.mean([after[index, number, level].to_edited[-1] for level in ("key", "map")]))
            for number in range(settings)
        ]
        for index in range(exemplars)
    }
    return [chosen(scores, index) for index in range(exemplars)]


def numbers(starts: Sequence[Reconstruction], ends: Sequence[Reconstruction]) -> dict[str, Any]:
    """Means over exemplars, with intervals."""
    pairs = [
        ([a.to_edited[-1], a.to_original[-1]], [b.to_edited[-1], b.to_original[-1]])
        for a, b in zip(starts, ends, strict=True)
    ]
    losses = {f"loss {when}": float(np.mean([each.losses[-1] for each in found])) for when, found in
              (("before", starts), ("after", ends))}  # fmt: skip
    return of_pairs(pairs) | losses


def of_pairs(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> dict[str, Any]:
    """Means of cosines before and after, with intervals, and in how many exemplars the edited picture is nearer."""
    found: dict[str, Any] = {}
    for when, index in (("before", 0), ("after", 1)):
        for side, to in (("edited", 0), ("original", 1)):
            found[f"{side} {when}"] = interval([pair[index][to] for pair in pairs])
    return found | {"edited nearer": sum(pair[1][0] > pair[1][1] for pair in pairs)}


def cost(told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean numbers of what an edit of a convolution reached."""

    def mean(read: Callable[[Mapping[str, Any]], float]) -> float:
        return float(np.mean([read(each) for each in told]))

    forward = {
        f"forward, {key}": mean(lambda each, key=key: each["forward"][key])  # type: ignore[misc]
        for key in told[0]["forward"]
    }
    return {
        "recalled": mean(lambda each: each["recalled"]["after"]),
        "within taps": mean(lambda each: each["within_taps"]),
        "circular beside padded": mean(lambda each: each["circular_beside_padded"]),
    } | forward


def repaired(network: Network, edits: Sequence[Edit]) -> dict[str, Any]:
    """What the edits do to the pictures of the rule, and to the reference set's predictions."""
    tests, reference = (outcomes_of(network.model, edits, each) for each in (network.tests, network.reference))
    return {
        "edits": len(edits),
        "pictures": len(network.tests),
        "right before": float(tests[0].before or 0),
        "right after": interval([float(each.after or 0) for each in tests]),
        "flips": interval([len(each.flips) / len(each) for each in reference]),
        "predicted damage": float(np.mean([each.reports[0].predicted_damage for each in edits])),
    }


def kept(name: str, network: str, rows: Table) -> Table:
    """The rows with all that were not measured anew as they were recorded before."""
    path = RESULTS / f"{name}-cpu.json"
    before = json.loads(path.read_text("utf-8"))["rows"] if path.is_file() else []
    anew = {(row["network"], row["method"]) for row in rows}
    names = [*GRIDS, WHOLE_KERNEL]
    others = [row for row in before if (row["network"], row["method"]) not in anew]
    return sorted([*others, *rows], key=lambda row: (row["network"], names.index(row["method"])))


def main() -> None:
    """Measure and record."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--network", action="append", choices=["playground", "squeezenet"])
    parser.add_argument("--method", action="append", choices=list(GRIDS), help="these alone; other rows are kept")
    given = parser.parse_args()
    for name in given.network or ("playground", "squeezenet"):
        network = playground() if name == "playground" else squeezenet(given.device)
        rows, costs, repairs = measured(name, network, given.method or tuple(GRIDS))
        for table, found in (("inverse", rows), ("inverse-fourier", costs), ("inverse-repair", repairs)):
            record(table, given.device, kept(table, name, found))


if __name__ == "__main__":
    main()

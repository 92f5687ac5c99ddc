"""Report of a discovery: ranked rules, heat maps, and example pairs of images."""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rulepatch.concepts.cases import plain_name
from rulepatch.data.exemplar_folders import write_exemplar
from rulepatch.discovery.concept_effects import EVERY_CLASS, ConceptEffect
from rulepatch.discovery.result import Discovery, Finding
from rulepatch.escaping import for_figure, json_text
from rulepatch.evaluation.page import THUMBNAIL, inline, render, svg_element, svg_of, write_page
from rulepatch.files import check_writable, write_texts, writing_in
from rulepatch.images import read_image
from rulepatch.text import command_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_heat_maps", "write_discovery", "write_report"]

MOST_RULES = 60
SHOWN_RULES = 12
"""Rules of each model of which pairs of images are shown."""

WRITTEN = 20
"""Rules of each model that exemplars are written for."""

PAIRS = 4
MOST_LABELS = 40
"""Rows of a heat map."""

LONGEST = 40
"""Most characters of a name in a heat map."""

MOST_COLUMNS = 40
"""Columns of all heat maps together that stand side by side."""


def write_report(discovery: Discovery, path: Path | str) -> None:
    """Write the report atomically.

    Args:
        discovery: the discovery.
        path: the file.

    Raises:
        OutputError: the folder does not exist, or the path is one.
    """
    path = Path(path)
    check_writable(path)
    maps = [(finding.model, finding.effects, finding.rules) for finding in discovery.findings]
    page = render(
        "discovery.html.jinja",
        title="rules discovered",
        discovery=discovery,
        models=[_model(discovery, finding) for finding in discovery.findings],
        heat_map=svg_element(svg_of(draw_heat_maps(maps, _labels(discovery)))),
        differences=[each for each in discovery.compared if each.q <= discovery.level][:MOST_RULES],
        most_rules=MOST_RULES,
    )
    write_page(page, path)


def write_discovery(
    discovery: Discovery,
    folder: Path,
    *,
    models: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write `discovery.json`, `report.html`, and exemplars of the first rules as `rulepatch edit` takes them.

    Args:
        discovery: what was discovered.
        folder: made if there is none.
        models: how a command line names the models; as they call themselves if None.
        options: of the commands, such as the reference set; that is the case set's own images if none is named.

    Returns:
        For each rule about which exemplars can be written, the command that edits it.
    """
    with writing_in(folder):
        return _written(discovery, folder, models or [finding.model for finding in discovery.findings], options or {})


def _written(discovery: Discovery, folder: Path, names: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    write_texts(folder, {"discovery.json": json_text(discovery.to_json()) + "\n"})
    write_report(discovery, folder / "report.html")
    commands = []
    for model, finding in zip(names, discovery.findings, strict=True):
        for rule in finding.rules[:WRITTEN]:
            exemplars = discovery.exemplars(finding, rule)
            if not exemplars:
                continue
            name = plain_name(" ".join([finding.model, rule.label, rule.concept, rule.style or "any style"]))
            own = folder / "rules" / name
            for number, each in enumerate(exemplars):
                write_exemplar(each.exemplar(), own / f"exemplar_{number}")
            given = {"reference": discovery.cases.root / "images", **options, "site": "auto"}
            out = folder / "rules" / f"{name}.safetensors"
            commands.append(command_line("edit", {"model": model, "exemplar": own, **given, "out": out}))
    return commands


def draw_heat_maps(
    maps: Sequence[tuple[str, Sequence[ConceptEffect], Sequence[ConceptEffect]]], labels: Sequence[str]
) -> "Figure":
    """Accuracy lost by class × concept and style, a map for each model, side by side if they fit; dots mark rules.

    Args:
        maps: the title of each, its rows, and those of them that count as rules; rows of all styles together are left
            out.
        labels: classes and groups that the maps show, in order.
    """
    from matplotlib.figure import Figure

    shown = [[row for row in rows if row.style is not None] for _, rows, _ in maps]
    columns = sorted({(row.concept, row.style or "") for rows in shown for row in rows})
    beside = len(columns) * len(shown) <= MOST_COLUMNS
    across, down = (len(shown), 1) if beside else (1, len(shown))
    width, height = 2.2 + 0.26 * len(columns) * across, 1.8 + 0.24 * len(labels) * down
    figure = Figure(figsize=(max(width, 6), max(height, 3)), layout="constrained")
    every = figure.subplots(down, across, squeeze=False, sharex=not beside, sharey=beside).ravel()
    image = None
    for axes, (title, _, found), rows in zip(every, maps, shown, strict=True):
        grid = np.full((len(labels), len(columns)), np.nan)
        rules = {rule.key for rule in found}
        for row in rows:
            if row.label in labels:
                y, x = labels.index(row.label), columns.index((row.concept, row.style or ""))
                grid[y, x] = 100 * row.drop
                if row.key in rules:
                    axes.plot(x, y, marker="o", color="black", markersize=2.5)
        image = axes.imshow(grid, cmap="RdBu_r", vmin=-100, vmax=100, aspect="auto")
        axes.set_xticks(
            range(len(columns)), [for_figure(f"{c}: {s}", LONGEST) for c, s in columns], rotation=90, fontsize=7
        )
        axes.set_yticks(range(len(labels)), [for_figure(label, LONGEST) for label in labels], fontsize=7)
        axes.set_title(for_figure(title), fontsize=9)
        axes.set_facecolor("#e8e8e8")
    if image is not None and labels:
        figure.colorbar(image, ax=list(every), label="points of accuracy lost", shrink=0.8)
    return figure


def _labels(discovery: Discovery) -> list[str]:
    """Rows of a heat map: all classes together, groups, and the classes with the largest drops."""
    worst: dict[str, float] = {}
    for row in (row for finding in discovery.findings for row in finding.effects if row.style is not None):
        worst[row.label] = max(worst.get(row.label, 0.0), row.drop)
    first = [name for name in (EVERY_CLASS, *discovery.groups) if name in worst]
    others = sorted((label for label in worst if label not in first), key=lambda label: (-worst[label], label))
    return [*first, *others][:MOST_LABELS]


def _model(discovery: Discovery, finding: Finding) -> dict[str, Any]:
    return {
        "finding": finding,
        "rules": finding.rules[:MOST_RULES],
        "shown": [
            {"rule": rule, "pairs": pairs}
            for rule in finding.rules[:SHOWN_RULES]
            if (pairs := _pairs(discovery, finding, rule))
        ],
    }


def _pairs(discovery: Discovery, finding: Finding, rule: ConceptEffect) -> list[dict[str, str]]:
    examples = finding.examples(discovery.cases, rule, discovery.groups.get(rule.label))
    before, after = finding.predictions
    found = []
    for index in islice(examples, PAIRS):
        each = discovery.cases.counterfactuals[index]
        found.append(
            {
                "name": f"{each.picture}: {each.concept} in {each.style}",
                "image": inline(read_image(each.image), THUMBNAIL),
                "styled": inline(read_image(each.styled), THUMBNAIL),
                "before": f"{finding.classes[int(before.predicted[index])]} {before.confidence[index]:.0%}",
                "after": f"{finding.classes[int(after.predicted[index])]} {after.confidence[index]:.0%}",
            }
        )
    return found

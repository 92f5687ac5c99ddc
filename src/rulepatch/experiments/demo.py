"""The whole story on the embedded world: a wrong rule, one exemplar, an edit, and what it did."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rulepatch.data.exemplar_folders import read_exemplars, write_exemplar
from rulepatch.editors.edit import rewrite
from rulepatch.evaluation.evaluate import evaluate
from rulepatch.evaluation.outcomes import Outcomes
from rulepatch.evaluation.report import write_report
from rulepatch.evaluation.result import Evaluation
from rulepatch.files import writing_in
from rulepatch.models.classes import Classes
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import exemplar, image_set, training_images
from rulepatch.playground.scenes import CLASSES, TRAIN_STYLES, Scene, default_style, render
from rulepatch.text import Table, command_line, percent
from rulepatch.timing import collect_timings, section

__all__ = ["Story", "run_demo", "write_pictures"]

SITE, RANK, STRENGTH, GATE = "blocks.3.conv", 1, 1.0, 0.95
"""Chosen on other scenes of the playground than those the demo shows."""

LABEL, CONCEPT = "van", "snow"


@dataclass(frozen=True)
class Story:
    """What the demo made and measured.

    Attributes:
        evaluation: of the edit, on vehicles on snow and on the training world.
        folder: where everything was written: `exemplar`, `reference`, `tests`, `clean`, the edit and the report.
        edit_path: where the edit was written.
        report_path: where the report was written.
        seconds: by section.
    """

    evaluation: Evaluation
    folder: Path
    edit_path: Path
    report_path: Path
    seconds: dict[str, float]

    def rows(self) -> list[tuple[str, Outcomes]]:
        """The table's rows: the concept's images of the exemplar's class and of others, and clean images.

        Returns:
            A title and the outcomes of each.
        """
        assert self.evaluation.tests is not None and self.evaluation.reference is not None
        label = CLASSES.index(LABEL)
        tests, clean = self.evaluation.tests, self.evaluation.reference

        on_snow = np.isin(clean.labels, [CLASSES.index(name) for name in snow_classes()])
        return [
            (f"{LABEL}s on snow", tests.where(tests.labels == label)),
            ("other vehicles on snow", tests.where(tests.labels != label)),
            ("the world it was trained in", clean),
            ("  of these, what belongs on snow", clean.where(on_snow)),
        ]

    def commands(self) -> list[str]:
        """What to try next, on the same images."""
        exemplar, reference, tests, clean = (self.folder / name for name in ("exemplar", "reference", "tests", "clean"))
        made, model = "mine.safetensors", {"model": "playground"}
        settings = {"site": "blocks.4.conv", "rank": 2, "out": made}
        return [
            command_line("predict", {"edit": self.edit_path}, "playground", tests),
            command_line("show", {}, self.edit_path),
            command_line("sites", {}, "playground"),
            command_line("edit", {**model, "exemplar": exemplar, "reference": reference, **settings}),
            command_line("evaluate", {**model, "tests": tests, "reference": clean, "report": "mine.html"}, made),
        ]

    def to_json(self) -> dict[str, Any]:
        """The story as JSON."""
        rows = {title.strip(): found.to_json(self.evaluation.classes) for title, found in self.rows()}
        paths = {"edit": str(self.edit_path), "report": str(self.report_path)}
        return {**paths, "table": rows, **self.evaluation.to_json(), "seconds": self.seconds}

    def to_text(self) -> str:
        """The story for people."""
        rows = [
            [
                title,
                len(found),
                percent(found.before),
                percent(found.after),
                len(found.repaired),
                len(found.broken),
            ]
            for title, found in self.rows()
        ]
        return "\n".join(
            [
                f"The playground's classifier has only ever seen {LABEL}s on roads. From one image of a {LABEL}",
                f"whose road is painted over with snow, one layer ({SITE}) was changed in "
                f"{1000 * self.seconds['solve']:.0f} ms.",
                "Now it treats snow as road, in every class:",
                "",
                Table(["images of", "", "before", "after", "repaired", "broken"], rows).to_text(),
                "",
                f"edit      {self.edit_path}",
                f"report    {self.report_path}",
                f"images  {self.folder}/{{exemplar,reference,tests,clean}}",
                "",
                "Try next, on the same images:",
                *(f"  {command}" for command in self.commands()),
                "On your own model: rulepatch sites torchvision/resnet50",
            ]
        )


def snow_classes() -> list[str]:
    """What stands on snow in the training world."""
    return [label for label in CLASSES if default_style(label, "ground") == "snow"]


def road_vehicles() -> list[str]:
    """What stands on road in the training world."""
    return [label for label in CLASSES if default_style(label, "ground") == "road"]


def scenes_on_snow(per_class: int, *, seed: int) -> Iterator[Scene]:
    """Road vehicles on snow of textures that neither the training world nor the exemplar has.

    Args:
        per_class: scenes of each class.
        seed: which.

    Yields:
        Scenes.
    """
    rng = np.random.default_rng([seed, 7])
    for label in road_vehicles():
        for _ in range(per_class):
            texture = int(rng.integers(TRAIN_STYLES.stop, 10_000))
            yield render(label, seed=int(rng.integers(2**31)), ground="snow", ground_seed=texture)


def write_pictures(out: Path, classes: Classes, *, seed: int = 0) -> None:
    """Write what the demo works with: an exemplar, reference images, tests, and clean images.

    Args:
        out: a folder for the folders `exemplar`, `reference`, `tests` and `clean`.
        classes: of the playground's classifier.
        seed: of the scenes.
    """
    write_exemplar(exemplar(LABEL, ground=CONCEPT, seed=seed), out / "exemplar")
    training_images(500, seed=seed + 1).write(out / "reference", classes)
    image_set(scenes_on_snow(40, seed=seed), "vehicles on snow").write(out / "tests", classes)
    training_images(1000, seed=seed + 2).write(out / "clean", classes)


def run_demo(out: Path, *, seed: int = 0, progress: bool = True) -> Story:
    """Show the wrong rule, repair it from one exemplar, and measure what that did.

    The images are written to folders first and read back, so that every command can repeat what is done here.

    Args:
        out: a folder for the images, the edit and the report; made if there is none.
        seed: of the scenes.
        progress: whether to show bars.

    Raises:
        OutputError: another process is writing to the folder, or it cannot be written to.
    """
    with writing_in(out), collect_timings() as seconds:
        model = load_model("playground")
        with section("pictures"):
            write_pictures(out, model.classes, seed=seed)
        exemplars = read_exemplars([out / "exemplar"])
        edit = rewrite(
            model,
            exemplars,
            reference=out / "reference",
            site=SITE,
            rank=RANK,
            strength=STRENGTH,
            gate=GATE,
            cache=None,
            progress=progress,
        )
        with section("evaluation"):
            evaluation = evaluate(
                model, edit, tests=out / "tests", reference=out / "clean", exemplars=exemplars, progress=progress
            )
        edit_path, report_path = out / "snow-to-road.safetensors", out / "report.html"
        edit.save(edit_path)
        write_report(evaluation, report_path)
    return Story(evaluation, out, edit_path, report_path, seconds)

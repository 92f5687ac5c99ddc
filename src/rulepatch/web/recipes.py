"""What was done at a workbench, and how to do it again: by the command line, from Python, elsewhere."""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.exemplar_folders import write_exemplar
from rulepatch.files import write_file
from rulepatch.methods import Rewrite
from rulepatch.settings import written
from rulepatch.text import command_line
from rulepatch.unfinished import ScratchFolder

__all__ = ["Draft", "Rule", "Sources", "State", "commands", "program", "title_of", "write_bundle"]


@dataclass(frozen=True, eq=False)
class Draft:
    """An edit that is being tried.

    Attributes:
        edit: the edit.
        exemplars: what it was made from.
        site: dotted path, or several.
        how: the settings of the rewrite.
        why: why a search chose it; empty if nobody searched.
        tried: what the search tried, for people.
    """

    edit: Edit
    exemplars: tuple[Exemplar, ...]
    site: str | Sequence[str]
    how: Rewrite
    why: str = ""
    tried: str = ""

    @property
    def title(self) -> str:
        """What the rule says, in a few words."""
        return title_of(self.exemplars[0])


@dataclass(frozen=True, eq=False)
class Rule:
    """A rule that is kept.

    Attributes:
        name: no two rules of a workbench have the same.
        edit: the edit.
        on: whether the model has it now.
        draft: how it was made; None if it came from a file.
    """

    name: str
    edit: Edit
    on: bool = True
    draft: Draft | None = None


@dataclass(frozen=True, eq=False)
class State:
    """All that can be undone.

    Attributes:
        exemplars: what the next edit is made from.
        rules: those kept.
        draft: the edit that is being tried.
    """

    exemplars: tuple[Exemplar, ...] = ()
    rules: tuple[Rule, ...] = ()
    draft: Draft | None = None


@dataclass(frozen=True)
class Sources:
    """What a workbench works with, as the command line calls it.

    Attributes:
        model: name, or file.
        reference: folder of images whose treatment should stay.
        tests: folder of labelled images that edits should repair; none if None.
        clean: folder of labelled images on which damage is measured; the reference set if None.
        validation: folder of labelled images that a search chooses on; none if None.
        first: a command that makes the folders; none if empty.
    """

    model: str
    reference: str
    tests: str | None = None
    clean: str | None = None
    validation: str | None = None
    first: str = ""


@dataclass(frozen=True, eq=False)
class _Step:
    """A rule of the result, with a name that is one of a file."""

    stem: str
    edit: Edit
    draft: Draft | None


def title_of(exemplar: Exemplar) -> str:
    """What an exemplar says, in a few words."""
    return f"{exemplar.replacement or 'this'} as {exemplar.concept or 'the concept'}"


def _steps(state: State) -> list[_Step]:
    """The rules that are on, and the draft."""
    parts = [(rule.edit, rule.draft) for rule in state.rules if rule.on]
    parts += [(state.draft.edit, state.draft)] if state.draft is not None else []
    return [_Step(f"rule-{number}", edit, draft) for number, (edit, draft) in enumerate(parts, start=1)]


def commands(state: State, sources: Sources) -> str:
    """The command line's way to the same edit; its exemplars and loaded edits are those of `write_bundle`.

    Args:
        state: what was done.
        sources: with what.

    Returns:
        Lines for a shell; nothing if nothing was done.
    """
    steps = _steps(state)
    if not steps:
        return ""
    lines = [sources.first] if sources.first else []
    for step in steps:
        if step.draft is not None:
            given = {"model": sources.model, "exemplar": step.stem, "reference": sources.reference}
            options = _options(step.draft, sources)
            lines.append(command_line("edit", {**given, **options, "out": f"{step.stem}.safetensors"}))
    edit = f"{steps[0].stem}.safetensors"
    if len(steps) > 1:
        edit = "edit.safetensors"
        lines.append(command_line("compose", {"out": edit}, *(f"{step.stem}.safetensors" for step in steps)))
    measured = {"model": sources.model, "tests": sources.tests, "reference": sources.clean or sources.reference}
    lines.append(command_line("evaluate", {**measured, "report": "report.html"}, edit))
    return "\n".join(lines)


def program(state: State, sources: Sources) -> str:
    """Python's way to the same edit; its exemplars and loaded edits are those of `write_bundle`.

    Args:
        state: what was done.
        sources: with what.

    Returns:
        A program; nothing if nothing was done.
    """
    steps = _steps(state)
    if not steps:
        return ""
    lines = ["from pathlib import Path", "", "import rulepatch as rp", "", f"model = rp.load_model({sources.model!r})"]
    if sources.first:
        lines[:0] = [f"# first: {sources.first}"]
    for step in steps:
        name = step.stem.replace("-", "_")
        if step.draft is None:
            lines.append(f'{name} = rp.Edit.load("{step.stem}.safetensors")')
            continue
        lines.append(f'exemplars = rp.read_exemplars([Path("{step.stem}")])')
        if not step.draft.why:
            own = {"site": step.draft.site, **step.draft.how.given()}
            told = ", ".join(f"{key}={value!r}" for key, value in own.items())
            lines.append(f"{name} = rp.rewrite(model, exemplars, reference=Path({sources.reference!r}), {told})")
        else:
            further = "" if sources.validation is None else f", validation=Path({sources.validation!r})"
            lines.append(f"{name} = rp.search(model, exemplars, reference=Path({sources.reference!r}){further}).edit")
    together = ", ".join(step.stem.replace("-", "_") for step in steps)
    lines.append(f"edit = {together if len(steps) == 1 else f'rp.Edit.compose({together})'}")
    tests = "" if sources.tests is None else f"tests=Path({sources.tests!r}), "
    clean = sources.clean or sources.reference
    lines.append(f"print(rp.evaluate(model, edit, {tests}reference=Path({clean!r})).to_text())")
    return "\n".join(lines)


def write_bundle(state: State, sources: Sources, path: Path) -> None:
    """Write all that it takes to do the same elsewhere: exemplars, edits, commands and program.

    Args:
        state: what was done.
        sources: with what.
        path: a zip file.

    Raises:
        OutputError: its folder does not exist.
    """
    with ScratchFolder() as temporary:
        root = Path(temporary)
        for step in _steps(state):
            step.edit.save(root / f"{step.stem}.safetensors")
            for number, exemplar in enumerate(step.draft.exemplars if step.draft else (), start=1):
                write_exemplar(exemplar, root / step.stem / f"{number:03}")  # in the order of their names
        write_file(root / "commands.sh", commands(state, sources) + "\n")
        write_file(root / "program.py", program(state, sources) + "\n")
        with io.BytesIO() as made:
            with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
                for file in sorted(root.rglob("*")):
                    archive.write(file, file.relative_to(root))
            write_file(path, made.getvalue())


def _options(draft: Draft, sources: Sources) -> dict[str, Any]:
    """How a draft was made."""
    if draft.why:
        return {"site": "auto", "validation": sources.validation}
    options = {name: written(value) for name, value in draft.how.given().items()}
    allowed = True if draft.edit.on_exemplars.verdict == "useless" else None
    return {"site": draft.site, **options, "allow-useless": allowed}

"""The command that makes exemplars."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from rulepatch.cli.commands import app
from rulepatch.cli.grouping import GroupedCommand, grouped
from rulepatch.cli.groups import OptionalModelOptions, RunOptions
from rulepatch.cli.messages import print_result
from rulepatch.cli.options import Label, MaskValue, Replacement, example, model_option, out_option

__all__ = ["app"]


@dataclass(frozen=True)
class ConceptOptions:
    """Concept."""

    mask: Annotated[Path | None, typer.Option(metavar="FILE", help="White where the concept is.")] = None
    mask_value: MaskValue = None
    label: Label = None
    concept: Annotated[
        str | None, typer.Option(metavar="NAME", help="What the mask marks, such as road; for reports.")
    ] = None


@dataclass(frozen=True)
class WayOptions:
    """What replaces it, one of."""

    replacement: Replacement = None
    edited: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The image with the concept replaced, instead of a texture.")
    ] = None
    note: Annotated[
        str | None, typer.Option(metavar="WORD", help="Paste a note with a word instead; it needs no mask.")
    ] = None
    box: Annotated[
        str | None, typer.Option(metavar="L,T,R,B", help="Where the note lies, in pixels. [somewhere, by the seed]")
    ] = None


@dataclass(frozen=True)
class AskedModelOptions(OptionalModelOptions):
    """Model."""

    model: Annotated[str | None, model_option("What does it say of both images?")] = None


@app.command(
    cls=GroupedCommand,
    epilog=example("exemplar van.jpg --mask road.png --replacement snow.jpg --label van -o van-on-snow -m playground"),
)
@grouped
def exemplar(
    *,
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="The image as it is.")],
    concept: ConceptOptions,
    way: WayOptions,
    model: AskedModelOptions,
    out: Annotated[Path, out_option("DIR", "The exemplar's folder, for --exemplar of other commands.", parents=False)],
    run: RunOptions,
) -> None:
    """Make an exemplar from an image. A texture replaces what a mask marks, or a note with a word is pasted."""
    from rulepatch.concepts.make_exemplar import Note, make_exemplar, read_box

    box = None if way.box is None else read_box(way.box)
    made = make_exemplar(
        picture,
        out,
        mask=concept.mask,
        mask_value=concept.mask_value,
        replacement=way.replacement,
        edited=way.edited,
        note=None if way.note is None else Note(way.note, box, run.seed),
        label=concept.label,
        concept=concept.concept,
        model=model.load(),
    )
    print_result(made, run.as_json)

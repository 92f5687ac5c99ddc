"""The command that makes exemplars."""

from pathlib import Path
from typing import Annotated

import typer

from rulepatch.cli.commands import app, load_classifier
from rulepatch.cli.messages import print_result
from rulepatch.cli.options import (
    Device,
    Json,
    Label,
    MaskValue,
    Replacement,
    Seed,
    Weights,
    example,
    model_option,
    out_option,
)

__all__ = ["app"]


@app.command(
    epilog=example("exemplar van.jpg --mask road.png --replacement snow.jpg --label van -o van-on-snow -m playground")
)
def exemplar(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="The picture as it is.")],
    out: Annotated[Path, out_option("DIR", "The exemplar's folder, for --exemplar of the other commands.")],
    mask: Annotated[Path | None, typer.Option(metavar="FILE", help="White where the concept is.")] = None,
    mask_value: MaskValue = None,
    replacement: Replacement = None,
    edited: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The picture with the concept replaced, instead of a texture.")
    ] = None,
    note: Annotated[
        str | None, typer.Option(metavar="WORD", help="Paste a note with a word instead; it needs no mask.")
    ] = None,
    box: Annotated[
        str | None, typer.Option(metavar="L,T,R,B", help="Where the note lies, in pixels. [somewhere, by the seed]")
    ] = None,
    label: Label = None,
    concept: Annotated[
        str | None, typer.Option(metavar="NAME", help="What the mask marks, such as road; for reports.")
    ] = None,
    model: Annotated[str | None, model_option("What does it say of both pictures?")] = None,
    weights: Weights = None,
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Make an exemplar from a picture. A texture replaces what a mask marks, or a note with a word is pasted."""
    from rulepatch.concepts.make_exemplar import make_exemplar, read_box

    made = make_exemplar(
        picture,
        out,
        mask=mask,
        mask_value=mask_value,
        replacement=replacement,
        edited=edited,
        word=note,
        box=None if box is None else read_box(box),
        label=label,
        concept=concept,
        seed=seed,
        model=None if model is None else load_classifier(model, weights, device),
    )
    print_result(made, as_json)

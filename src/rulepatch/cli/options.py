"""Options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "AnyBase",
    "Dask",
    "Device",
    "EditFile",
    "Error",
    "Exemplars",
    "GateKind",
    "Json",
    "LeaveOut",
    "MaskValue",
    "Masks",
    "Match",
    "MaxDrop",
    "ModelName",
    "Reference",
    "Replacement",
    "Seed",
    "Weights",
]


class GateKind(StrEnum):
    """How a gate lets an edit through."""

    hard = "hard"
    soft = "soft"


class Match(StrEnum):
    """What an edit is to match."""

    auto = "auto"
    pre_activation = "pre-activation"
    value = "value"


class Error(StrEnum):
    """How a difference counts."""

    squared = "squared"
    absolute = "absolute"


ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="torchvision/NAME, timm/NAME, hf/NAME, open_clip/NAME, places365/NAME, playground, FILE.py:FUNCTION or "
        "FILE.toml",
    ),
]
Weights = Annotated[Path | None, typer.Option(help="Local weights instead of the model's own.")]
Dask = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS|local", help="Workers of a Dask cluster; one that you trust, it has no passwords."),
]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, mps.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on standard output.")]
Seed = Annotated[int, typer.Option(help="Of everything that is random.", min=0, max=2**32 - 1)]
EditFile = Annotated[Path, typer.Argument(metavar="FILE", help="An edit file.")]
Reference = Annotated[
    Path | None, typer.Option("--reference", metavar="DIR", help="Pictures whose treatment should stay.")
]
LeaveOut = Annotated[
    list[str] | None,
    typer.Option("--leave-out", metavar="CLASS", help="Leave a class out of the reference set; repeatable."),
]
MaxDrop = Annotated[
    str | None,
    typer.Option(metavar="SHARE", help="Most accuracy that an edit may lose on the reference set, such as 0.25%."),
]
AnyBase = Annotated[bool, typer.Option("--any-base", help="Accept another model than the edit was computed on.")]
Exemplars = Annotated[
    list[Path],
    typer.Option("--exemplar", metavar="DIR|FILE", help="An exemplar folder, or a picture with --mask; repeatable."),
]
Masks = Annotated[
    list[Path] | None, typer.Option("--mask", metavar="FILE", help="Mask of each exemplar that is a picture, in order.")
]
MaskValue = Annotated[
    str | None,
    typer.Option(metavar="VALUE", help="What of masks of several colours is the concept: #800000, red, 15, opaque."),
]
Replacement = Annotated[
    Path | None, typer.Option("--replacement", metavar="FILE", help="A texture to paint over the concept.")
]

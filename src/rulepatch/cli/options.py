"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from rulepatch.errors import SettingError
from rulepatch.files import check_folder, check_writable, writing_in

__all__ = [
    "AnyBase",
    "Dask",
    "Device",
    "EditFile",
    "Exemplars",
    "Json",
    "Label",
    "LeaveOut",
    "MaskValue",
    "Masks",
    "MaxDrop",
    "ModelArgument",
    "ModelName",
    "OptionalEditFile",
    "OptionalExemplars",
    "OptionalModelName",
    "OptionalReference",
    "Reference",
    "Replacement",
    "Seed",
    "Weights",
    "example",
    "model_option",
    "number_option",
    "one_model",
    "out_option",
    "report_option",
]


def model_option(text: str) -> Any:
    """The option that names a model."""
    return typer.Option("--model", "-m", metavar="MODEL", help=text)


def out_option(metavar: str, text: str, *, parents: bool = True) -> Any:
    """The option that names what is written; it is tried before anything else, and a folder kept for the command.

    Args:
        metavar: DIR, or whatever for a file.
        text: its help.
        parents: whether the folders that a folder is in may be made; if not, it is only tried.
    """
    folder: Callable[..., Any] = _keep if parents else _try_folder
    check = folder if metavar == "DIR" else _try_file
    return typer.Option("--out", "-o", metavar=metavar, help=text, rich_help_panel="Output", callback=check)


def number_option(text: str, *, metavar: str | None = None) -> Any:
    """An option that takes a number; one that no library could take is refused before anything else."""
    return typer.Option(metavar=metavar, help=text, callback=_try_number)


def report_option(text: str, *names: str, metavar: str = "FILE") -> Any:
    """The option that names a further file that is written, such as a report; it is tried before anything else."""
    return typer.Option(*names, metavar=metavar, help=text, rich_help_panel="Output", callback=_try_file)


def _try_number(parameter: typer.CallbackParam, value: float | None) -> float | None:
    if value is not None and not abs(value) <= MOST:  # nor NaN
        raise SettingError(f"expected {parameter.opts[0]} to be a number ≤ {MOST} but got {value}; give a smaller one")
    return value


def _try_file(value: Any) -> Any:
    if value is not None and value != "-":
        check_writable(Path(value))
    return value


def _try_folder(value: Path) -> Path:
    check_folder(value, parents=False)
    return value


def _keep(ctx: typer.Context, value: Path) -> Path:
    if not ctx.resilient_parsing:
        ctx.find_root().with_resource(writing_in(value))  # of the program: it ends even if other options are wrong
    return value


MOST = 2**31 - 1
"""The largest number that an option takes; libraries take no larger ones."""

MODELS = "playground, FILE.py:FUNCTION, FILE.toml, or ZOO/NAME of torchvision, timm, hf, open_clip, places365"

ModelName = Annotated[str, model_option(MODELS)]
OptionalModelName = Annotated[str | None, model_option("The same as MODEL.")]
ModelArgument = Annotated[str | None, typer.Argument(metavar="MODEL", help=MODELS, show_default=False)]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE|FILE::KEY",
        help="Local weights; KEY names those wanted of several.",
    ),
]
Dask = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS|local", help="Workers of a Dask cluster; one that you trust, it has no passwords."),
]
Device = Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, mps.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.", rich_help_panel="Output")]
Seed = Annotated[int, typer.Option(metavar="N", help="Of everything that is random.", min=0, max=2**32 - 1)]
EditFile = Annotated[Path, typer.Argument(metavar="FILE", help="An edit file.")]
OptionalEditFile = Annotated[Path | None, typer.Argument(metavar="FILE", help="An edit file.", show_default=False)]
REFERENCE = typer.Option("--reference", metavar="DIR", help="Images whose treatment should stay; repeatable.")
Reference = Annotated[list[Path], REFERENCE]
OptionalReference = Annotated[list[Path] | None, REFERENCE]
LeaveOut = Annotated[
    list[str] | None,
    typer.Option("--leave-out", metavar="CLASS", help="Class to leave out of the reference; repeatable."),
]
MaxDrop = Annotated[
    str | None,
    typer.Option(metavar="SHARE", help="Most accuracy lost on the reference set, as 0.25%."),
]
AnyBase = Annotated[bool, typer.Option("--any-base", help="Accept another model than the edit was computed on.")]
EXEMPLAR = typer.Option("--exemplar", metavar="DIR|FILE", help="Exemplar folder, or image with --mask; repeatable.")
Exemplars = Annotated[list[Path], EXEMPLAR]
OptionalExemplars = Annotated[list[Path] | None, EXEMPLAR]
Label = Annotated[str | None, typer.Option("--label", metavar="CLASS", help="What the exemplars show.")]
Masks = Annotated[
    list[Path] | None, typer.Option("--mask", metavar="FILE", help="Mask of each exemplar that is an image, in order.")
]
MaskValue = Annotated[
    str | None,
    typer.Option(metavar="VALUE", help="Concept in masks of several colours: #800000, red, 15."),
]
Replacement = Annotated[
    Path | None, typer.Option("--replacement", metavar="FILE", help="A texture to paint over the concept.")
]


def one_model(argument: str | None, option: str | None) -> str:
    """The model that is named as MODEL or by --model.

    Raises:
        SettingError: it is named in neither way, or in both.
    """
    if (argument is None) == (option is None):
        got = "none" if argument is None else f"both {argument} and --model {option}"
        raise SettingError(f"expected one MODEL, such as playground or torchvision/resnet50, but got {got}; name one")
    return argument or option or ""


def example(*lines: str) -> str:
    """What stands at the end of a command's help: an example of it, on the files of `rulepatch demo` where they do.

    Returns:
        Text that is not wrapped, so that it can be pasted.
    """
    return "\b\nExample:\n  rulepatch " + " \\\n      ".join(lines)

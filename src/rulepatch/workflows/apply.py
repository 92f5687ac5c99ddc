"""Export of edited models: weights, or whole programs."""

from pathlib import Path

from rulepatch.core.edit import Edit
from rulepatch.errors import OutputError
from rulepatch.files import check_writable
from rulepatch.models.classifier import Classifier
from rulepatch.models.export import FORMATS, check_libraries, export
from rulepatch.models.registry import save_weights

__all__ = ["WEIGHTS", "check_format", "write_edited"]

WEIGHTS = ".safetensors"
"""Ending of a file of weights."""


def check_format(edit: Edit, path: Path) -> None:
    """Check that a file can be written and can hold an edited model, before the model is loaded.

    Args:
        edit: the edit.
        path: the file; its extension selects the format.

    Raises:
        MissingExtraError: a library that the format needs is not installed.
        OutputError: the folder does not exist, or no such file can hold the edited model.
    """
    check_writable(path)
    whole = " or ".join(FORMATS)
    got = f"{path.name} ends in {path.suffix}" if path.suffix else f"{path.name} has no ending"
    if edit.beside_weights and path.suffix not in FORMATS:
        raise OutputError(
            f"expected a file that holds a whole network ({whole}) but {got}: the edit {edit.beside_weights}, which is "
            f"no change of weights; write {path.with_suffix(FORMATS[0]).name}, or make an edit without it"
        )
    if path.suffix not in {WEIGHTS, *FORMATS}:
        raise OutputError(
            f"expected a file of weights ({WEIGHTS}) or of a whole network ({whole}) but {got}; "
            f"write {path.with_suffix(WEIGHTS).name}"
        )
    check_libraries(path)


def write_edited(model: Classifier, edit: Edit, path: Path, *, any_base: bool = False) -> None:
    """Write an edited model: weights that the architecture takes, or the whole network as a program.

    Args:
        model: the edit's base; it is not changed.
        edit: the edit.
        path: a file ending in .safetensors, .pt2 or .onnx; gates, minimum and new classes need one of the last two.
        any_base: accept another base than the one that the edit was computed on.

    Raises:
        BaseMismatchError: the model is not the edit's base.
        MissingExtraError: a library that the format needs is not installed.
        ModelError: the network cannot be exported.
        OutputError: the folder does not exist, or no such file can hold the edited model.
    """
    check_format(edit, path)
    if path.suffix in FORMATS:
        export(edit.apply(model, any_base=any_base), path)
    else:
        save_weights(edit.merged(model, any_base=any_base).module, path)

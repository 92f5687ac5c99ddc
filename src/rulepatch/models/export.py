"""Whole networks as files that run elsewhere: gates beside layers go with them."""

import io
import logging
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch

from rulepatch.errors import MissingExtraError, ModelError, RulepatchError
from rulepatch.files import atomic_path
from rulepatch.models.classifier import Classifier

__all__ = ["FORMATS", "export"]

FORMATS = (".pt2", ".onnx")
"""Endings: a program of `torch.export`, an ONNX model."""


def export(model: Classifier, path: Path) -> None:
    """Write a network as a program that needs none of its code, for any number of pictures at a time.

    It maps normalised pictures, (n, 3, height, width), to logits, (n, classes).

    Args:
        model: the classifier, with an edit applied or not.
        path: the file, ending in .pt2 or .onnx.

    Raises:
        MissingExtraError: ONNX is not installed.
        ModelError: the network cannot be exported.
    """
    example = (model.example().expand(2, -1, -1, -1).contiguous(),)
    shapes = ({0: torch.export.Dim.AUTO},)
    silenced = logging.root.manager.disable
    flags = [(module, module.training) for module in model.module.modules() if hasattr(module, "training")]
    try:
        logging.disable(logging.ERROR)  # torch tells of its failures at length, and prints graphs; a sentence does
        silent = redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO())
        with warnings.catch_warnings(), silent[0], silent[1], atomic_path(path) as unfinished, torch.no_grad():
            warnings.simplefilter("ignore")
            model.module.eval()
            if path.suffix == ".pt2":
                torch.export.save(torch.export.export(model.module, example, dynamic_shapes=shapes), str(unfinished))
            else:
                _check_onnx()
                program = torch.onnx.export(model.module, example, dynamic_shapes=shapes, dynamo=True, verbose=False)
                assert program is not None
                program.save(str(unfinished))
    except Exception as error:  # of the network's own code, of torch
        if isinstance(error, RulepatchError):
            raise
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"expected a network that torch can export but {model.name} is none ({reason}); "
            "write a weights file (.safetensors) or use it from Python"
        ) from error
    finally:
        logging.disable(silenced)
        for module, training in flags:
            module.training = training


def _check_onnx() -> None:
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise MissingExtraError(
            "expected the libraries onnx and onnxscript to write ONNX but they are not installed; "
            "pip install 'rulepatch[onnx]'"
        ) from None

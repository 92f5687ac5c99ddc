"""Whole networks as files that run elsewhere: gates beside layers go with them."""

import logging
import warnings
from pathlib import Path

import torch

from rulepatch.errors import MissingExtraError, ModelError
from rulepatch.files import atomic_path
from rulepatch.models.classifier import Classifier

__all__ = ["FORMATS", "export"]

FORMATS = (".pt2", ".onnx")
"""Endings: a program of `torch.export`, an ONNX model."""


def export(model: Classifier, path: Path) -> None:
    """Write a network as a program that needs none of its code, for any number of pictures at a time.

    It maps normalised pictures, (n, channels, height, width), to logits, (n, classes).

    Args:
        model: the classifier, with an edit applied or not.
        path: the file, ending in .pt2 or .onnx.

    Raises:
        MissingExtraError: ONNX is not installed.
        ModelError: the network cannot be exported.
    """
    example = (model.example().expand(2, -1, -1, -1).contiguous(),)
    shapes = ({0: torch.export.Dim.AUTO},)
    training = model.module.training
    model.module.eval()
    try:
        with warnings.catch_warnings(), atomic_path(path) as unfinished, torch.no_grad():
            warnings.simplefilter("ignore")
            if path.suffix == ".pt2":
                torch.export.save(torch.export.export(model.module, example, dynamic_shapes=shapes), str(unfinished))
            else:
                _check_onnx()
                logging.getLogger("torch.onnx").setLevel(logging.ERROR)
                program = torch.onnx.export(model.module, example, dynamic_shapes=shapes, dynamo=True, verbose=False)
                assert program is not None
                program.save(str(unfinished))
    except (RuntimeError, TypeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"expected a network that torch can export but {model.name} is none ({reason}); "
            "write a weights file (.safetensors) or use it from Python"
        ) from error
    finally:
        model.module.train(training)


def _check_onnx() -> None:
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise MissingExtraError(
            "expected the libraries onnx and onnxscript to write ONNX but they are not installed; "
            "pip install 'rulepatch[onnx]'"
        ) from None

"""Whole networks as files that run elsewhere: gates beside layers go with them."""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import TensorArgument

from rulepatch.errors import MissingExtraError, ModelError, RulepatchError
from rulepatch.files import check_writable, write_file
from rulepatch.forward import inference
from rulepatch.models.classifier import Classifier
from rulepatch.models.weights import refuse_unsound

__all__ = ["ABOUT", "FORMATS", "about", "check_libraries", "export"]

FORMATS = (".pt2", ".onnx")
"""Endings: a program of `torch.export`, an ONNX model."""

ABOUT = "rulepatch.json"
"""The file within a .pt2 that says what `about` does."""

INPUT, OUTPUT, BATCH = "input", "logits", "batch"
"""What the program's input, its output and their first axis are called."""


def export(model: Classifier, path: Path) -> None:
    """Write a network as a program that needs none of its code, for any number of images at a time.

    It maps `input`, normalised images, (batch, channels, height, width), to `logits`, (batch, classes), and carries
    what `about` says: an ONNX model as its metadata, each entry in JSON; a .pt2 as the extra file `rulepatch.json`.

    Args:
        model: the classifier, with an edit applied or not.
        path: the file, ending in .pt2 or .onnx.

    Raises:
        MissingExtraError: ONNX is not installed.
        ModelError: the network cannot be exported.
        OutputError: the file cannot be written.
        WeightsError: it holds NaN or infinity.
    """
    check_libraries(path)
    refuse_unsound(model.module, model.name)
    tensors = (each for each in model.module.state_dict().values() if isinstance(each, Tensor))
    check_writable(path, size=sum(each.nbytes for each in tensors))
    example = (model.example().expand(2, -1, -1, -1).contiguous(),)
    try:
        with _program_of(model) as program, io.BytesIO() as made:  # torch ends the process on a full disk
            if path.suffix == ".pt2":
                exported = torch.export.export(program, example, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
                _name_output(exported)
                torch.export.save(exported, made, extra_files={ABOUT: json.dumps(about(model))})
            else:
                named: dict[str, Any] = {"input_names": [INPUT], "output_names": [OUTPUT]}
                shapes = ({0: BATCH},)
                onnx = torch.onnx.export(program, example, dynamic_shapes=shapes, dynamo=True, verbose=False, **named)
                assert onnx is not None
                onnx.model.metadata_props.update({key: json.dumps(value) for key, value in about(model).items()})
                made.write(onnx.model_proto.SerializeToString())
            content = made.getvalue()
    except Exception as error:  # of the network's own code, of torch
        if isinstance(error, RulepatchError):
            raise
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"expected a network that torch can export but {model.name} is none ({reason}); "
            "write a weights file (.safetensors) or use it from Python"
        ) from error
    write_file(path, content)


def about(model: Classifier) -> dict[str, Any]:
    """What a program must be told with, so that others can feed it and read its output.

    Args:
        model: the classifier.

    Returns:
        Its name, how images are prepared (`input_size` as height and width, `mean`, `std`, …) and its `classes`, in
        the order of the logits, with their WordNet ids if they are known; JSON.

    Examples:
        >>> from rulepatch.models.registry import load_model
        >>> found = about(load_model("playground"))
        >>> found["input_size"], len(found["mean"]), len(found["classes"])
        ((64, 64), 3, 23)
    """
    classes = model.classes
    return {"name": model.name, **model.preprocess.describe(), "classes": classes.names, "wordnet": classes.wordnet}


def check_libraries(path: Path) -> None:
    """Make sure that the libraries that a file's format needs are there.

    Raises:
        MissingExtraError: ONNX is wanted and not installed.
    """
    if path.suffix != ".onnx":
        return
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise MissingExtraError(
            "expected the libraries onnx and onnxscript to write ONNX but they are not installed; "
            "pip install 'rulepatch[onnx]'"
        ) from None


class _Program(nn.Module):
    """What is exported: the network, and the logits in what it returns."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.network = model.module
        self._logits_of = model.logits_of

    def forward(self, input: Tensor) -> Tensor:  # the program's input takes its name
        return self._logits_of(self.network(input))


@contextmanager
def _program_of(model: Classifier) -> Iterator[nn.Module]:
    silenced = logging.root.manager.disable
    try:
        logging.disable(logging.ERROR)  # torch tells of its failures at length, and prints graphs; a sentence does
        silent = redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO())
        with inference(model.module), warnings.catch_warnings(), silent[0], silent[1]:
            warnings.simplefilter("ignore")
            yield _Program(model).eval()
    finally:
        logging.disable(silenced)


def _name_output(program: ExportedProgram) -> None:
    """Call what a program returns by a name; torch calls it after the last operation."""
    (returned,) = (node for node in program.graph.nodes if node.op == "output")
    result = returned.args[0][-1]
    result._rename(OUTPUT)
    program.graph_signature.output_specs[-1].arg = TensorArgument(name=result.name)

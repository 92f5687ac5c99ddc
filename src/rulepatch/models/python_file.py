"""Models of the user's own: `FILE.py:FUNCTION`."""

import importlib.util
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from torch import nn

from rulepatch.errors import ModelError, nearest
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import Request, Sourced, source


@source("python")
def load(request: Request) -> Sourced:
    """Result of a function in a Python file: a `Classifier`, or a module that a model file completes.

    Returns:
        The network, and its preprocessing and classes if the function returned a classifier.

    Raises:
        ModelError: there is no such file or function, or it returned something else.
    """
    file, _, name = request.name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise ModelError(f"expected a Python file at {path} but there is none; check the path")
    functions = {key: value for key, value in _run(path).items() if callable(value)}
    if name not in functions:
        raise ModelError(
            f"expected a function {name!r} in {path} but it has none; the nearest are {nearest(name, functions)}"
        )
    try:
        with redirect_stdout(sys.stderr):
            made = functions[name](**request.kwargs)
    except Exception as error:
        raise ModelError(
            f"expected {name} of {path} to return a model but it raised {type(error).__name__} ({error}); mend it, or "
            "its arguments"
        ) from error
    if isinstance(made, Classifier):
        return Sourced(made.module, made.preprocess, made.classes)
    if isinstance(made, nn.Module):
        return Sourced(made)
    raise ModelError(
        f"expected {name} of {path} to return a rulepatch.Classifier or a torch module but got {type(made).__name__}"
    )


def _run(path: Path) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location(f"rulepatch file {path.stem}", path)
    if spec is None or spec.loader is None:
        raise ModelError(f"expected a Python file but got {path}; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)  # the file may import its neighbours
    sys.modules[spec.name] = module  # and its classes may look for the module that they are of
    try:
        with redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except Exception as error:
        raise ModelError(
            f"expected {path} to run but it raised {type(error).__name__} ({error}); mend the file"
        ) from error
    finally:
        sys.path.remove(folder)
    return vars(module)

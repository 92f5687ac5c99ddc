"""rulepatch rewrites a rule inside a trained image classifier, from one picture with a painted mask.

Everything here is loaded when it is first used, so that importing rulepatch loads no torch.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rulepatch.core.edit import Edit
    from rulepatch.core.exemplars import Exemplar
    from rulepatch.data.exemplar_folders import read_exemplars
    from rulepatch.data.folders import ImageSet
    from rulepatch.editors.edit import projected_adam, rewrite
    from rulepatch.errors import RulepatchError
    from rulepatch.evaluation.evaluate import evaluate
    from rulepatch.evaluation.result import Evaluation
    from rulepatch.models.classes import Classes
    from rulepatch.models.classifier import Classifier
    from rulepatch.models.preprocess import Preprocess
    from rulepatch.models.registry import load_model
    from rulepatch.site_search.search import search
    from rulepatch.tracing.sites import find_sites

__all__ = [
    "Classes",
    "Classifier",
    "Edit",
    "Evaluation",
    "Exemplar",
    "ImageSet",
    "Preprocess",
    "RulepatchError",
    "evaluate",
    "find_sites",
    "load_model",
    "projected_adam",
    "read_exemplars",
    "rewrite",
    "search",
]

_HOMES = {
    "Classes": "models.classes",
    "Classifier": "models.classifier",
    "Edit": "core.edit",
    "Evaluation": "evaluation.result",
    "Exemplar": "core.exemplars",
    "ImageSet": "data.folders",
    "Preprocess": "models.preprocess",
    "RulepatchError": "errors",
    "evaluate": "evaluation.evaluate",
    "find_sites": "tracing.sites",
    "load_model": "models.registry",
    "projected_adam": "editors.edit",
    "read_exemplars": "data.exemplar_folders",
    "rewrite": "editors.edit",
    "search": "site_search.search",
}

__version__ = "0.1.0"

logging.getLogger("rulepatch").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rulepatch' has no attribute {name!r}")
    return getattr(importlib.import_module(f"rulepatch.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

"""rulepatch rewrites a rule inside a trained image classifier, from one image with a painted mask.

Everything here is loaded when it is first used, so that importing rulepatch loads no torch. What is here and in the
packages' own `__all__` is described in the reference and stable; everything else is private.
"""

import logging
from typing import TYPE_CHECKING

from rulepatch.lazy import exports

if TYPE_CHECKING:
    from rulepatch.concepts.make_cases import make_cases
    from rulepatch.concepts.make_exemplar import make_exemplar
    from rulepatch.concepts.match import match
    from rulepatch.core.edit import Edit
    from rulepatch.core.exemplars import Exemplar
    from rulepatch.data.exemplar_folders import read_exemplars
    from rulepatch.data.folders import ImageSet
    from rulepatch.data.run import Run
    from rulepatch.discovery.discover import discover
    from rulepatch.editors.edit import edit, projected_adam, rewrite
    from rulepatch.editors.multi_rule import Rule, rewrite_rules
    from rulepatch.errors import RulepatchError
    from rulepatch.evaluation.evaluate import evaluate
    from rulepatch.evaluation.predict import predict
    from rulepatch.evaluation.report import write_report
    from rulepatch.evaluation.result import Evaluation
    from rulepatch.evaluation.verification import verify
    from rulepatch.experiments.compare import compare
    from rulepatch.methods import ProjectedAdam, Rewrite
    from rulepatch.models.classes import Classes
    from rulepatch.models.classifier import Classifier
    from rulepatch.models.export import export
    from rulepatch.models.preprocess import Preprocess
    from rulepatch.models.registry import load_model
    from rulepatch.new_classes.editor import new_class
    from rulepatch.site_search.search import search
    from rulepatch.tracing.sites import find_sites
    from rulepatch.workflows.compose import compose

__all__ = [
    "Classes",
    "Classifier",
    "Edit",
    "Evaluation",
    "Exemplar",
    "ImageSet",
    "Preprocess",
    "ProjectedAdam",
    "Rewrite",
    "Rule",
    "RulepatchError",
    "Run",
    "compare",
    "compose",
    "discover",
    "edit",
    "evaluate",
    "export",
    "find_sites",
    "load_model",
    "make_cases",
    "make_exemplar",
    "match",
    "new_class",
    "predict",
    "projected_adam",
    "read_exemplars",
    "rewrite",
    "rewrite_rules",
    "search",
    "verify",
    "write_report",
]

__version__ = "0.1.0"

logging.getLogger("rulepatch").addHandler(logging.NullHandler())

__getattr__, __dir__ = exports(__name__)

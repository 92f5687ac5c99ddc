"""Discovery of rules that a classifier has learnt: effects of concepts on classes, measured on counterfactuals."""

from typing import TYPE_CHECKING

from rulepatch.lazy import exports

if TYPE_CHECKING:
    from rulepatch.discovery.concept_effects import EVERY_CLASS, ConceptEffect
    from rulepatch.discovery.report import write_discovery, write_report
    from rulepatch.discovery.result import BeforeAndAfter, Discovery, Finding

__all__ = ["EVERY_CLASS", "BeforeAndAfter", "ConceptEffect", "Discovery", "Finding", "write_discovery", "write_report"]

__getattr__, __dir__ = exports(__name__)

"""Where a concept is in images, and images in which it is replaced."""

from typing import TYPE_CHECKING

from rulepatch.lazy import exports

if TYPE_CHECKING:
    from rulepatch.concepts.case_settings import CaseSettings
    from rulepatch.concepts.cases import CaseSet, Counterfactual, split
    from rulepatch.concepts.counterfactuals import make_counterfactuals
    from rulepatch.concepts.make_cases import styles_for
    from rulepatch.concepts.match import Key, Matches, key_of_concept, key_of_edit
    from rulepatch.concepts.overlays import Overlay, find_overlay, transplants
    from rulepatch.concepts.painting import Painting
    from rulepatch.concepts.segment import (
        Region,
        Request,
        Segmenter,
        concept_mask,
        load_segmenter,
        regions_of,
        segmenter,
    )
    from rulepatch.concepts.segmenters.bases import ClosedVocabulary, Entries, OpenVocabulary, SingleNetwork
    from rulepatch.concepts.segmenters.context import ContextMatch
    from rulepatch.concepts.stickers import find_sticker
    from rulepatch.concepts.stylize import (
        Style,
        Stylizer,
        check_parts,
        finished,
        load_stylizer,
        picture_of_style,
        styles,
        stylizer,
    )
    from rulepatch.concepts.test_sets import TestSet, make_test_sets
    from rulepatch.concepts.typographic import Note, note

__all__ = [
    "CaseSet",
    "CaseSettings",
    "ClosedVocabulary",
    "ContextMatch",
    "Counterfactual",
    "Entries",
    "Key",
    "Matches",
    "Note",
    "OpenVocabulary",
    "Overlay",
    "Painting",
    "Region",
    "Request",
    "Segmenter",
    "SingleNetwork",
    "Style",
    "Stylizer",
    "TestSet",
    "check_parts",
    "concept_mask",
    "find_overlay",
    "find_sticker",
    "finished",
    "key_of_concept",
    "key_of_edit",
    "load_segmenter",
    "load_stylizer",
    "make_counterfactuals",
    "make_test_sets",
    "note",
    "picture_of_style",
    "regions_of",
    "segmenter",
    "split",
    "styles",
    "styles_for",
    "stylizer",
    "transplants",
]

__getattr__, __dir__ = exports(__name__)

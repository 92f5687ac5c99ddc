"""The method. It knows no data set, no model zoo, no disk cache and no screen.

From the ground up: `linalg` (every equation), `moments` (statistics of keys), `exemplars`, `site_activations` (what
a site sees of them), `changes` (what an edit is made of), `patched_model` (putting changes into a network) and `edit`.
"""

from typing import TYPE_CHECKING

from rulepatch.lazy import exports

if TYPE_CHECKING:
    from rulepatch.core.changes import Dense, Gate, LowRank, Minimum, NewClass
    from rulepatch.core.moments import KeySample, KeyStatistics, SecondMoment
    from rulepatch.core.site_activations import SiteActivations

__all__ = [
    "Dense",
    "Gate",
    "KeySample",
    "KeyStatistics",
    "LowRank",
    "Minimum",
    "NewClass",
    "SecondMoment",
    "SiteActivations",
]

__getattr__, __dir__ = exports(__name__)

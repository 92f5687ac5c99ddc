"""The demo, and comparisons of methods on the same exemplars, tests and budget."""

from typing import TYPE_CHECKING

from rulepatch.lazy import exports

if TYPE_CHECKING:
    from rulepatch.experiments.compare import Comparison
    from rulepatch.experiments.demo import scenes_on_snow
    from rulepatch.experiments.settings import CompareSettings

__all__ = ["CompareSettings", "Comparison", "scenes_on_snow"]

__getattr__, __dir__ = exports(__name__)

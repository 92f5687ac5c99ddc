"""The browser app: it shows what the packages below it do."""

from typing import TYPE_CHECKING

from rulepatch.lazy import exports

if TYPE_CHECKING:
    from rulepatch.web.serve import serving
    from rulepatch.web.workbench import Workbench

__all__ = ["Workbench", "serving"]

__getattr__, __dir__ = exports(__name__)

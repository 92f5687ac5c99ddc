"""Editing in the inverse direction, from outputs to inputs (thesis ch. 3)."""

from typing import TYPE_CHECKING

from rulepatch.lazy import exports

if TYPE_CHECKING:
    from rulepatch.inverse.reconstruct import invert
    from rulepatch.inverse.report import write_inversion
    from rulepatch.inverse.result import Inversion, Reconstruction
    from rulepatch.inverse.settings import InvertSettings

__all__ = ["Inversion", "InvertSettings", "Reconstruction", "invert", "write_inversion"]

__getattr__, __dir__ = exports(__name__)

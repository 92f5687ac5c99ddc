"""Packages whose public names are loaded when they are first used, so that importing rulepatch loads no torch."""

import ast
import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["exports"]


def exports(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package (PEP 562) that exports what its `if TYPE_CHECKING` block imports.

    The block is what type checkers, editors and the reference read, so that no second list says where a name is from.

    Args:
        package: its `__name__`.

    Examples:
        >>> import rulepatch
        >>> "load_model" in dir(rulepatch), rulepatch.load_model.__module__
        (True, 'rulepatch.models.registry')
    """
    module = sys.modules[package]

    @functools.cache
    def homes() -> dict[str, str]:
        source = module.__loader__.get_source(package)  # type: ignore[union-attr]
        blocks = [each for each in ast.parse(source).body if isinstance(each, ast.If)]
        imports = [each for block in blocks for each in block.body if isinstance(each, ast.ImportFrom)]
        return {alias.name: str(each.module) for each in imports for alias in each.names}

    def __getattr__(name: str) -> Any:  # noqa: N807 - it is set as such
        if name.startswith("__") or name not in homes():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes()[name]), name)

    def __dir__() -> list[str]:  # noqa: N807 - it is set as such
        return sorted({*homes(), *(name for name in vars(module) if name.startswith("__"))})

    return __getattr__, __dir__

"""Registries: objects by name, imported when they are first asked for; other packages add to them by entry points."""

import importlib
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib import metadata
from typing import Any, Generic, TypeVar

from rulepatch.errors import RulepatchError, SettingError, nearest, reason_of, warn

__all__ = ["Registry"]

T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[..., Any])


class Registry(Generic[T]):
    """Objects of one kind, by name.

    A module registers a name when it is imported, by the decorator `register`, and is imported when that name is first
    asked for. Another package names such a module in an entry point of the group: `NAME = "package.module"`. Entry
    points are read once, when a name is asked for that is not rulepatch's own, or all names are.

    A name means one thing: rulepatch's own names cannot be taken, and a name that two packages have is refused.

    Args:
        kind: what the objects are, for messages.
        modules: by the names that come with rulepatch.
        group: of the entry points.
        error: raised where there is no object of a name, or it cannot be imported.

    Examples:
        >>> shapes = Registry[Callable[[], int]]("shape", {}, group="rulepatch.shapes")
        >>> @shapes.register("square")
        ... def corners():
        ...     return 4
        >>> shapes.names(), shapes["square"](), shapes["square/of/any/size"]()
        (['square'], 4, 4)
    """

    def __init__(
        self, kind: str, modules: Mapping[str, str], *, group: str, error: type[RulepatchError] = SettingError
    ) -> None:
        self._kind, self._modules, self._group, self._error = kind, modules, group, error
        self._objects: dict[str, T] = {}

    def register(
        self, name: str, made: Callable[[Any], T] = lambda function: function
    ) -> Callable[[Function], Function]:
        """Register a function, or what is made of it.

        Args:
            name: to ask for it by.
            made: makes the object of the decorated function; the function itself is the object by default.

        Returns:
            A decorator.

        Raises:
            SettingError: the name is one of rulepatch's own, and the function is not.
        """

        def decorate(function: Function) -> Function:
            if self._modules.get(name, function.__module__) != function.__module__:
                raise SettingError(f"expected a new name but {name!r} is a {self._kind} of rulepatch; take another")
            self._objects[name] = made(function)
            return function

        return decorate

    @property
    def imported(self) -> Mapping[str, T]:
        """The objects of the modules that were imported so far, by name."""
        return self._objects

    def names(self) -> list[str]:
        """All names, sorted, whether or not what they stand for can be imported."""
        return sorted({*self._modules, *self._objects, *self._entry_points})

    def __contains__(self, name: str) -> bool:
        key = name.partition("/")[0]
        return key in self._modules or key in self._objects or key in self._entry_points

    def __getitem__(self, name: str) -> T:
        """The object of a name, whatever follows a slash; `error` if there is none or it cannot be imported."""
        key = name.partition("/")[0]
        if name not in self:
            raise self._error(
                f"expected a {self._kind} ({', '.join(self.names())}) but got {name!r}; "
                f"the nearest is {nearest(key, self.names(), count=1)}"
            )
        if key not in self._objects:
            if key in self._modules:
                importlib.import_module(self._modules[key])
            else:
                self._import(key, self._entry_points[key])
        return self._objects[key]

    def _import(self, name: str, points: list[metadata.EntryPoint]) -> None:
        packages = [f"{point.dist.name} {point.dist.version}" for point in points if point.dist]
        if len(points) > 1:
            raise self._error(
                f"expected one {self._kind} {name!r} but {' and '.join(packages)} each have one; uninstall all but one"
            )
        what = f"expected the {self._kind} {name!r} of the package {packages[0]}"
        try:
            points[0].load()
        except Exception as error:
            self._objects.pop(name, None)
            raise self._error(
                f"{what} but it cannot be imported ({reason_of(error)}); repair or uninstall that package"
            ) from error
        if name not in self._objects:
            raise self._error(f"{what} but {points[0].value} registers no such name; repair or uninstall that package")

    @cached_property
    def _entry_points(self) -> dict[str, list[metadata.EntryPoint]]:
        """Entry points of other packages by name, more than one where packages have the same name."""
        found: dict[str, list[metadata.EntryPoint]] = {}
        packages = set()
        for package in metadata.distributions():
            try:
                points = package.entry_points.select(group=self._group)
            except Exception as error:  # a file that no installer wrote
                warn(f"the entry points of the package {package.name} are left out: {reason_of(error)}")
                continue
            if not points or package.name in packages:  # the first one of a package on the path is what is imported
                continue
            packages.add(package.name)
            for point in points:
                if point.name not in self._modules:
                    found.setdefault(point.name, []).append(point)
                else:
                    warn(
                        f"the {self._kind} {point.name!r} of the package {package.name} is left out: the name is "
                        "rulepatch's own"
                    )
        return found

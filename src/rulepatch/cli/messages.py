"""What the command line says: its result, and warnings as sentences on standard error."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import typer

from rulepatch.errors import RulepatchWarning
from rulepatch.escaping import for_terminal, json_text, one_line
from rulepatch.text import Result

__all__ = ["Told", "print_result", "sentence", "warnings_as_sentences", "warnings_so_far"]

_said: list[str] = []


@dataclass(frozen=True)
class Told:
    """A result that is no more than what is printed of it."""

    json: dict[str, Any]
    text: str

    def to_json(self) -> dict[str, Any]:
        """The result for programs."""
        return self.json

    def to_text(self) -> str:
        """The result for people."""
        return self.text


def print_result(result: Result, as_json: bool, *, more: Mapping[str, Any] | None = None, then: str = "") -> None:
    """Print what came out, for people or as one JSON object, which names the warnings.

    Args:
        result: what came out.
        as_json: whether to print JSON.
        more: what else the JSON holds.
        then: what else people are told, on lines of its own.
    """
    if not as_json:
        typer.echo(for_terminal(result.to_text() + (f"\n{then}" if then else "")))
        return
    found = {**result.to_json(), **(more or {})}
    if warnings := warnings_so_far():
        found["warnings"] = warnings
    typer.echo(json_text(found))


def sentence(text: str) -> str:
    """Return a message as one line that says where it comes from."""
    return f"rulepatch: {one_line(text)}"


def warnings_so_far() -> list[str]:
    """Return the warnings of the command that is running, each once, in order."""
    return list(_said)


@contextmanager
def warnings_as_sentences() -> Iterator[None]:
    """Print rulepatch's own warnings as sentences while a command runs, each once; others as they are."""
    _said.clear()
    with warnings.catch_warnings():
        show_others = warnings.showwarning

        def show(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, RulepatchWarning):
                show_others(message, category, *where, **more)
            elif str(message) not in _said:
                _said.append(str(message))
                typer.echo(sentence(f"warning: {message}"), err=True)

        warnings.simplefilter("always", RulepatchWarning)
        warnings.showwarning = show
        yield

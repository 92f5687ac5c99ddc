"""What the command line says beside its result: warnings, as sentences on standard error."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from rulepatch.errors import RulepatchWarning

__all__ = ["sentence", "warnings_as_sentences", "warnings_so_far"]

_said: list[str] = []


def sentence(text: str) -> str:
    """Return a message as one line that says where it comes from."""
    return f"rulepatch: {' '.join(text.split())}"


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

"""What the command line declares: its commands, and options of each, for attacks that leave none out."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import typer

from rulepatch.cli import app


class Option(NamedTuple):
    """An option of a command.

    Attributes:
        command: its words.
        name: of the option.
        metavar: what it takes.
        panel: its heading in the help.
        kind: the type of its values.
        filled: all that the command must be given beside it: words that mean nothing.
    """

    command: tuple[str, ...]
    name: str
    metavar: str
    panel: str
    kind: Any
    filled: tuple[str, ...]

    def line(self, value: object) -> list[object]:
        """A command line in which this option alone says something."""
        return [*self.command, *self.filled, self.name, value]


def commands(program: Any = None, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and the words that call it."""
    program = program or typer.main.get_command(app)
    for name, command in program.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


def options() -> Iterator[Option]:
    """Every option of every command that takes a value."""
    for words, command in commands():
        parameters = command.get_params(typer.Context(command))
        for parameter in parameters:
            if parameter.param_type_name == "option" and not parameter.is_flag:
                others = [each for each in parameters if each is not parameter and each.required]
                filled = tuple(word for each in others for word in _filled(each)) + OFFLINE.get(words, ())
                kind = parameter.type_descriptor.annotation
                panel = getattr(parameter, "rich_help_panel", None) or ""
                yield Option(words, parameter.opts[0], parameter.metavar or "", panel, kind, filled)


def outputs() -> list[Option]:
    """The options that name what is written."""
    kinds = {"FILE", "DIR", "STORE"}
    return [each for each in options() if each.panel == "Output" and each.metavar.partition("|")[0] in kinds]


OFFLINE = {("cases",): ("--segmenter", "x")}
"""What keeps commands from looking for a library's default in the network."""


def _filled(parameter: Any) -> list[str]:
    return (
        ["x", "x"]
        if parameter.param_type_name == "argument" and parameter.nargs != 1
        else (["x"] if parameter.param_type_name == "argument" else [parameter.opts[0], "x"])
    )

"""The command line."""

import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from rulepatch.cli import (
    case_commands,
    exemplar_commands,
    invert_commands,
    model_commands,
    new_class_commands,
    statistics_commands,
    sweep_commands,
    web_commands,
)
from rulepatch.cli.commands import app
from rulepatch.cli.messages import sentence, warnings_as_sentences
from rulepatch.errors import RulepatchError
from rulepatch.memory import keep_freed_memory
from rulepatch.trust import asking_for_trust

__all__ = ["app", "main"]

COMMANDS = (
    case_commands,
    exemplar_commands,
    invert_commands,
    model_commands,
    new_class_commands,
    statistics_commands,
    sweep_commands,
    web_commands,
)
"""Files whose commands are added to those of `commands` by being imported."""

INTERRUPTED = 130
"""What typer returns after Ctrl-C, and the exit code that says so."""


class _Sentences(logging.Formatter):
    """Formats what the library logs as the command line's other messages."""

    def format(self, record: logging.LogRecord) -> str:
        return sentence(super().format(record))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; exit with 0 on success, with one sentence and the error's code (2, 3) otherwise.

    Args:
        arguments: without the program's name; those of the process if None.
    """
    log, messages = logging.getLogger("rulepatch"), logging.StreamHandler()
    messages.setFormatter(_Sentences())
    log.addHandler(messages)
    keep_freed_memory()
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    exit_code = RulepatchError.exit_code
    try:
        with warnings_as_sentences(), asking_for_trust():
            code = app(given, prog_name="rulepatch", standalone_mode=False) or 0
        if code == INTERRUPTED:
            typer.echo("rulepatch: interrupted", err=True)
        sys.exit(code)
    except RulepatchError as error:
        reason, exit_code = str(error), error.exit_code
    except OSError as error:
        reason = f"expected files and folders that can be read and written but got {error}; check them"
    except Exception as error:
        if not hasattr(error, "format_message"):  # what typer raises for bad arguments
            raise
        reason = error.format_message()
    finally:
        log.removeHandler(messages)
    typer.echo(sentence(reason), err=True)
    sys.exit(exit_code)

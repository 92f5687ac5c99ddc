"""The command line."""

import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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

ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals by which batch systems, containers and terminals end a program: each does what Ctrl-C does."""


class _Sentences(logging.Formatter):
    """Formats what the library logs as the command line's other messages."""

    def format(self, record: logging.LogRecord) -> str:
        return sentence(super().format(record))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; exit with 0 on success, with one sentence and the error's code (2, 3) otherwise.

    It exits with 130 after Ctrl-C, and with 128 and the signal's number after SIGTERM (143) and SIGHUP.

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
        with warnings_as_sentences(), asking_for_trust(), _ended_by_signals() as received:
            code = app(given, prog_name="rulepatch", standalone_mode=False) or 0
        if code == INTERRUPTED:
            typer.echo("rulepatch: interrupted", err=True)
            code = 128 + received[0] if received else code
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


@contextmanager
def _ended_by_signals() -> Iterator[list[int]]:
    """Take signals that ask to end for Ctrl-C, so that what is half done is undone.

    Yields:
        The signals that came.
    """
    received: list[int] = []

    def interrupt(number: int, _: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = {}
    with suppress(ValueError):  # where this is not the main thread, which alone may
        for number in ENDING:
            if signal.getsignal(number) == signal.SIG_DFL:  # and not ignored, as by nohup
                before[number] = signal.signal(number, interrupt)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

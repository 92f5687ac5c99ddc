"""Whether a file may have code run that it names: a model file or a plan is a program if it names `FILE.py:FUNCTION`.

From Python it may, as the caller runs code in any case. The command line asks for `--trust`, and hands its answer on to
worker processes by the environment.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rulepatch.errors import SettingError

__all__ = ["asking_for_trust", "is_trusted", "require_trust", "trust"]

VARIABLE, ASK, GIVEN = "RULEPATCH_TRUST", "ask", "yes"


@contextmanager
def asking_for_trust() -> Iterator[None]:
    """Refuse to run code that files name, in this block and in processes that it starts, unless it is trusted."""
    before = os.environ.get(VARIABLE)
    if before != GIVEN:
        os.environ[VARIABLE] = ASK
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before


def trust() -> None:
    """Let files have code run that they name."""
    os.environ[VARIABLE] = GIVEN


def is_trusted() -> bool:
    """Whether somebody has said so."""
    return os.environ.get(VARIABLE) == GIVEN


def require_trust(file: Path, code: str) -> None:
    """Refuse to run code that a file names if nobody has said that it may.

    Args:
        file: the model file or plan.
        code: what it names, `FILE.py:FUNCTION`.

    Raises:
        SettingError: it has to be trusted first.

    Examples:
        >>> with asking_for_trust():
        ...     require_trust(Path("model.toml"), "net.py:build")
        Traceback (most recent call last):
        rulepatch.errors.SettingError: expected to be told that net.py:build may be run, which model.toml names; ...
    """
    if os.environ.get(VARIABLE) == ASK:
        raise SettingError(
            f"expected to be told that {code} may be run, which {file} names; read both files, and add --trust"
        )

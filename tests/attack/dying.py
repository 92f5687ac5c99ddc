"""Processes that end at a file operation of ours: before the k-th, as by kill -9; or whose disk is full."""

import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.link", "os.symlink"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
KILLED = 77


def forked(function: Callable[[], None], *, before: Callable[[], None] = lambda: None, log: Path | None = None) -> int:
    """Call a function in a process of its own.

    Args:
        function: what to call.
        before: what else to do there first.
        log: where its standard output and error go.

    Returns:
        Its exit code; minus the number of the signal that ended it.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had them ignored
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        told = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(told, 1)
        os.dup2(told, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        before()
        function()
        code = 0
    except SystemExit as left:
        code = int(left.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def dying(root: Path, number: int) -> Callable[[], None]:
    """End this process before it changes something below a folder for the n-th time, from 0 on."""

    def begin() -> None:
        left = number

        def happened(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            changes = event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING)
            if changes and str(root) in str(arguments[0]):
                if left == 0:
                    os._exit(KILLED)
                left -= 1

        sys.addaudithook(happened)

    return begin


def full(size: int) -> Callable[[], None]:
    """Let this process write no file larger than some bytes, as on a full disk."""

    def begin() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return begin

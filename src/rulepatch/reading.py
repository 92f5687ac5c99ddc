"""The door for texts of others: JSON, TOML and YAML out of regular files, each read in one way or refused.

What is refused: files that are none (FIFOs, devices), that are too large or no UTF-8; nesting beyond all use; a key
that stands twice; numbers that no computation takes; halves of characters; aliases, anchors and tags of YAML. YAML's
plain words are read by the core schema of version 1.2, so that `no`, `010` and `1:30` are the texts that they seem.
"""

import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from rulepatch.errors import RulepatchError

__all__ = ["is_regular", "opened", "parse_json", "read_bytes", "read_json", "read_text", "read_toml", "read_yaml"]

MOST_BYTES = 16 << 20
"""Of a text, unless more is asked for."""

MOST_WRITTEN_BY_HAND = 1 << 19
"""Of a plan and of a model file, whose readers are slow."""

MOST_PARTS = 16
"""Of a dotted key of TOML, whose reader takes the square of them in time."""

DEEPEST = 256
"""Objects and lists within each other: edits composed again and again have two for each time."""

LARGEST = 1e38
"""Numbers beyond it are none of ours, and infinite in float32."""

Error = type[RulepatchError]


class _RefusedError(ValueError):
    """A text says something that is not taken; its message is the reason, for brackets."""


def is_regular(path: Path) -> bool:
    """Whether there is a file that ends, behind links or not: neither a folder nor a device nor a FIFO.

    Examples:
        >>> is_regular(Path(__file__)), is_regular(Path("/dev/zero"))
        (True, False)
    """
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


@contextmanager
def opened(path: Path, error: Error, *, most: int, what: str = "a file") -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file for reading.

    Args:
        path: the file; links are followed.
        error: what to raise.
        most: bytes that it may have.
        what: is expected, for the message.

    Yields:
        The file, and its size.

    Raises:
        RulepatchError: there is none, it is none, or it is too large; of the given class.
    """
    try:  # a FIFO would wait for a writer
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as reason:
        why = getattr(reason, "strerror", None) or reason
        raise error(f"expected {what} at {path} but it cannot be read ({why}); check the path") from None
    try:
        about = os.fstat(number)  # of what is read, whatever takes its place meanwhile
        if not stat.S_ISREG(about.st_mode):
            raise error(f"expected {what} at {path} but it cannot be read (it is a folder or a device); name another")
        if about.st_size > most:
            raise error(
                f"expected {what} of at most {most:,} bytes at {path} but it cannot be read (it has "
                f"{about.st_size:,}); name another"
            )
        with open(number, "rb", closefd=False) as file:
            yield file, about.st_size
    except RulepatchError:
        raise
    except OSError as reason:
        raise error(
            f"expected {what} at {path} but it cannot be read ({reason.strerror or reason}); get a sound copy"
        ) from None
    finally:
        os.close(number)


def read_bytes(path: Path, error: Error, *, what: str = "a file", most: int = MOST_BYTES) -> bytes:
    """The contents of a regular file.

    Args:
        path: the file; links are followed.
        error: what to raise.
        what: is expected, for the message.
        most: bytes that it may have.

    Raises:
        RulepatchError: see `opened`.
    """
    with opened(path, error, most=most, what=what) as (file, _):
        content = file.read(most + 1) or b""
    if len(content) > most:  # of those in /proc no size is told
        raise error(f"expected {what} of at most {most:,} bytes at {path} but it has more; name another")
    return content


def read_text(path: Path, error: Error, *, what: str = "text", most: int = MOST_BYTES) -> str:
    """The text of a regular file in UTF-8, with or without a byte order mark.

    Args:
        path: the file.
        error: what to raise.
        what: is expected, for the message.
        most: bytes that it may have.

    Raises:
        RulepatchError: see `opened`; or it is no UTF-8.
    """
    try:
        return read_bytes(path, error, what=what, most=most).decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        raise error(
            f"expected {what} at {path} but it cannot be read (no UTF-8 at byte {reason.start}); save it as UTF-8"
        ) from None


def read_json(path: Path, error: Error, *, what: str = "JSON", most: int = MOST_BYTES) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        error: what to raise.
        what: is expected, for the message.
        most: bytes that it may have.

    Returns:
        Dictionaries, lists, texts, finite numbers, truth values, None.

    Raises:
        RulepatchError: see `opened` and `parse_json`.

    Examples:
        >>> from rulepatch.errors import SettingError
        >>> file = Path(getfixture("tmp_path")) / "classes.json"
        >>> _ = file.write_text('{"van": 1, "van": 2}')
        >>> read_json(file, SettingError)
        Traceback (most recent call last):
        rulepatch.errors.SettingError: expected JSON at ... but it cannot be read (the key 'van' twice); mend it ...
    """
    return parse_json(read_text(path, error, what=what, most=most), str(path), error, what=what)


def parse_json(
    text: str | bytes, place: str, error: Error, *, what: str = "JSON", free: bool = False, most: int = MOST_BYTES
) -> Any:
    """Read JSON that does not lie in a file of its own.

    Args:
        text: the JSON.
        place: where it lies, for the message.
        error: what to raise.
        what: is expected, for the message.
        free: whether it holds notes of ours that are shown alone: numbers may be NaN and texts names of files that are
            no UTF-8.
        most: bytes that it may have.

    Returns:
        Dictionaries, lists, texts, numbers, truth values, None.

    Raises:
        RulepatchError: it is no JSON, or something that is not taken; of the given class.
    """

    def read() -> Any:
        if len(text) > most:
            raise _RefusedError(f"more than {most:,} characters")
        return json.loads(text, object_pairs_hook=_once)

    return _read(read, what, place, error, free=free, nan=free)


def read_toml(path: Path, error: Error, *, what: str = "TOML") -> dict[str, Any]:
    """Read a TOML file.

    Args:
        path: the file.
        error: what to raise.
        what: is expected, for the message.

    Returns:
        Dictionaries, lists, texts, numbers (perhaps NaN: who needs one says so), truth values; no dates.

    Raises:
        RulepatchError: see `opened`; or it is no TOML, or something that is not taken.
    """
    text = read_text(path, error, what=what, most=MOST_WRITTEN_BY_HAND)

    def read() -> Any:
        import tomllib

        dots = 0
        for found in _TOML.finditer(text):
            dots = dots + 1 if found[0] == "." else dots if found[0][0] in "\"'" else 0
            if dots >= MOST_PARTS:
                raise _RefusedError(f"a key of more than {MOST_PARTS} parts")
        return tomllib.loads(text)

    found: dict[str, Any] = _read(read, what, str(path), error, nan=True)
    return found


_TOML = re.compile(
    r'"""(?:\\.|[^\\])*?"""' r"|'''.*?'''" r'|"(?:\\.|[^"\\\n])*"' r"|'[^'\n]*'|\#[^\n]*|[.=,\[\]{}\n]", re.DOTALL
)
"""Texts, comments, and what joins and ends keys."""


def read_yaml(path: Path, error: Error, *, what: str = "YAML") -> Any:
    """Read a YAML file of one document, without anchors, aliases, tags and merges.

    Args:
        path: the file.
        error: what to raise.
        what: is expected, for the message.

    Returns:
        Dictionaries, lists, texts, finite numbers, truth values, None.

    Raises:
        RulepatchError: see `opened`; or it is no YAML, or something that is not taken.

    Examples:
        >>> from rulepatch.errors import SettingError
        >>> file = Path(getfixture("tmp_path")) / "plan.yaml"
        >>> _ = file.write_text("names: [no, 010, 1:30, 2001-02-03, 7]")
        >>> read_yaml(file, SettingError)
        {'names': ['no', '010', '1:30', '2001-02-03', 7]}
    """
    text = read_text(path, error, what=what, most=MOST_WRITTEN_BY_HAND)
    return _read(lambda: _of_yaml(text), what, str(path), error)


def _of_yaml(text: str) -> Any:
    import yaml

    def value(event: Any, depth: int) -> Any:
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _RefusedError(f"an anchor or alias in line {event.start_mark.line + 1}; write it out")
        if event.tag is not None:
            raise _RefusedError(f"the tag {event.tag} in line {event.start_mark.line + 1}; leave it out")
        if depth > DEEPEST:
            raise RecursionError
        if isinstance(event, yaml.ScalarEvent):
            return event.value if event.style else _scalar(event.value)
        inside = []
        while not isinstance(following := next(events), yaml.SequenceEndEvent | yaml.MappingEndEvent):
            inside.append(value(following, depth + 1))
        if isinstance(event, yaml.SequenceStartEvent):
            return inside
        keys = [str(key) if type(key) is int else key for key in inside[::2]]
        for key in keys:
            if not isinstance(key, str):
                raise _RefusedError(f"the key {key!r} in line {event.start_mark.line + 1}; put it in quotes")
        return _once(list(zip(keys, inside[1::2], strict=True)))

    try:
        events = iter(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
        documents = []
        for event in events:
            if isinstance(event, yaml.NodeEvent):
                documents.append(value(event, 0))
    except yaml.YAMLError as reason:
        raise _RefusedError(" ".join(str(reason).split())) from None
    if len(documents) > 1:
        raise _RefusedError("several documents")
    return documents[0] if documents else None


_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None} | {
    word: word[0] in "tT" for word in ("true", "True", "TRUE", "false", "False", "FALSE")
}
_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?")
_NO_NUMBER = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def _scalar(text: str) -> str | int | float | bool | None:
    """What a plain word of YAML stands for, by the core schema of version 1.2."""
    if text in _WORDS:
        return _WORDS[text]
    if _WHOLE.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        return float(text)
    return math.nan if _NO_NUMBER.fullmatch(text) else text


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _RefusedError(f"the key {key[:60]!r} twice")
        found[key] = value
    return found


def _read(
    read: Callable[[], Any], what: str, place: str, error: Error, *, free: bool = False, nan: bool = False
) -> Any:
    """What a library reads, if it is sound, or a sentence."""
    try:
        found = read()
        _refuse_unsound(found, free=free, nan=nan)
        return found
    except RecursionError:
        reason = f"it is nested deeper than {DEEPEST}"
    except (ValueError, OverflowError) as refused:  # whatever a library says
        reason = " ".join(str(refused).split())[:300]
    raise error(f"expected {what} at {place} but it cannot be read ({reason}); mend it or name another")


_NO_TEXT = re.compile("[\\x00\\ud800-\\udfff]")


def _refuse_unsound(found: Any, *, free: bool, nan: bool) -> None:
    """Refuse what no text of ours holds, however deep it lies."""
    left: list[tuple[Any, int]] = [(found, 0)]
    while left:
        value, depth = left.pop()
        if depth > DEEPEST:
            raise RecursionError
        if isinstance(value, dict):
            left += ((each, depth + 1) for each in value.values())
            left += ((key, depth) for key in value)
        elif isinstance(value, list):
            left += ((each, depth + 1) for each in value)
        elif isinstance(value, str):
            if not free and _NO_TEXT.search(value):
                raise _RefusedError(f"the text {ascii(value)[:60]} has half a character, or the character 0")
        elif isinstance(value, bool) or value is None:
            pass
        elif not isinstance(value, int | float):
            raise _RefusedError(f"{str(value)[:60]} is no text; put it in quotes")
        elif not abs(value) <= LARGEST and not (nan and isinstance(value, float)):
            raise _RefusedError(f"the number {value:g}" if isinstance(value, float) else "a number that is too large")

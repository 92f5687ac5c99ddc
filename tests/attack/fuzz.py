"""Mutations of sound files, and the loop that reads them: what may come of it is a sentence, or the same meaning.

`RULEPATCH_ATTACKS` is the number of mutations of each format; `RULEPATCH_ATTACK_COUNTS` names a file that a line of
JSON with the counts of each format is added to.
"""

import copy
import json
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import process_time
from typing import Any

import pytest

from rulepatch.errors import RulepatchError

ATTACKS = int(os.environ.get("RULEPATCH_ATTACKS") or 60)

MARKS = [pytest.mark.slow] if ATTACKS > 200 else []

SLOW = 5.0
"""Seconds of processor time beyond which a mutation is counted as slow."""

ENDLESS = 60
"""Seconds of processor time after which reading is broken off: it would not have ended."""


@dataclass
class Tally:
    """What came of the mutations of a format."""

    form: str
    mutations: int = 0
    refused: int = 0
    read: int = 0
    slow: int = 0
    faults: list[str] = field(default_factory=list)

    def close(self) -> None:
        """Write the counts, and fail if there were faults."""
        counts = {**vars(self), "faults": len(self.faults)}
        if told := os.environ.get("RULEPATCH_ATTACK_COUNTS"):
            with Path(told).open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps(counts)}\n")
        assert not self.faults, f"{counts}\n" + "\n".join(self.faults[:12])
        assert self.mutations == self.refused + self.read


class EndlessError(BaseException):
    """Reading took the time of a thing that does not end."""


@contextmanager
def ends() -> Iterator[None]:
    """Break off what takes a minute of processor time, whatever else the machine does."""

    def stop(*_: object) -> None:
        raise EndlessError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, ENDLESS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def attack(
    form: str, mutated: Callable[[Random], Any], read: Callable[[Any], Any], *, count: int = ATTACKS, start: int = 0
) -> Tally:
    """Read mutations of a format.

    Args:
        form: its name.
        mutated: a mutation, by what it draws.
        read: reads one; it raises a RulepatchError or an AssertionError that says what else it means.
        count: of mutations.
        start: number of the first one, to repeat one.
    """
    tally = Tally(form)
    for number in range(start, start + count):
        given = mutated(Random(f"{form} {number}"))
        tally.mutations += 1
        begun = process_time()
        try:
            with ends(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(given)
            tally.read += 1
        except RulepatchError as error:
            tally.refused += 1
            if "expected" not in str(error):
                tally.faults.append(f"{number}: no sentence: {error!r}")
        except (Exception, EndlessError) as error:
            tally.faults.append(f"{number}: {type(error).__name__}: {str(error)[:300]} of {repr(given)[:300]}")
        tally.slow += process_time() - begun > SLOW
    return tally


TOKENS = (
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"9" * 400, b"true", b"null", b"no", b"010", b"1:30", b"~",
    b"2001-01-01", b"{", b"}", b"[", b"]", b'"', b"'", b",", b":", b"=", b"\\", b"\\ud800", b"\\u0000", b"\x00",
    b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"\n", b"&a ", b"*a", b"<<: ", b"!!binary ", b"---\n", b"...",
    b"#", b"?",    b"[" * 3000, b'{"a":' * 3000, b"- " * 3000, b"a." * 3000, b"../", b"/dev/zero",
)  # fmt: skip


def of_bytes(content: bytes, draw: Random) -> bytes:
    """Change some bytes: bits, pieces, words that parsers stumble over."""
    found = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        place = draw.randrange(len(found) + 1)
        end = min(len(found), place + draw.choice((1, 2, 8, 60, len(found))))
        match draw.randrange(8):
            case 0 | 1 if place < len(found):
                found[place] ^= 1 << draw.randrange(8)
            case 2 if place < len(found):
                found[place] = draw.randrange(256)
            case 3:
                del found[place:end]
            case 4:
                found[place:place] = found[place:end][:4096]
            case 5:
                found[place:place] = draw.choice(TOKENS)
            case 6:
                found[place:end] = draw.choice(TOKENS)
            case _:
                del found[place:]
    return bytes(found)


def odd_values(draw: Random) -> Any:
    """A value that is none of those expected."""
    deep: Any = 0
    for _ in range(draw.choice((3, 270))):
        deep = [deep] if draw.random() < 0.5 else {"a": deep}
    return draw.choice((
        None, True, False, 0, 1, -1, 7, 2**31, 2**63, -(2**63), 10**30, 10**400, 0.5, -0.0, 1e-320, 1e30, 1e39, 1e308,
        float("nan"), float("inf"), float("-inf"), "", " ", "a", "1", "nan", "0.5", "x" * 5000, "\x00",
        "\ud800", "\udcff", "é", "../../etc/passwd", "/dev/zero", "~nosuchuser/x", "a\nb", "\x1b]52;c;x\x07", "$a$",
        "=1+1", [], {}, [[]],        [None], [1, 2], ["a", "a"], {"a": 1}, {"": None}, deep,
    ))  # fmt: skip


def places_in(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Every holder and key or index within a value, but for those that lie very deep."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in list(inside):
        yield value, key
        if depth < 20:
            yield from places_in(each, depth + 1)


def of_structure(value: Any, draw: Random) -> Any:
    """Change what a value says: replace, drop, rename, add and exchange parts of it."""
    found = [copy.deepcopy(value)]
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        holder, key = draw.choice(list(places_in(found)))
        match draw.randrange(8):
            case 0 | 1 | 2:
                holder[key] = odd_values(draw)
            case 3 if holder is not found:
                del holder[key]
            case 4 if isinstance(holder, dict):
                holder[draw.choice((f"{key}s", "", "a", "__metadata__", key.upper()))] = holder.pop(key)
            case 5:
                other, there = draw.choice(list(places_in(found)))
                holder[key] = json.loads(json.dumps(other[there]))
            case 6 if isinstance(holder, list):
                holder.append(json.loads(json.dumps(holder[key])))
            case _:
                if isinstance(holder[key], bool | int | float):
                    holder[key] = draw.choice((-1, 2, 1000)) * holder[key]
                elif isinstance(holder[key], str):
                    holder[key] = draw.choice(("", holder[key] * 2, holder[key][:-1], f"{holder[key]} "))
                else:
                    holder[key] = odd_values(draw)
    return found[0]


def as_json(value: Any, draw: Random) -> bytes:
    """A value as JSON, sometimes with a key twice; lone halves of characters are written as JSON can."""
    try:
        text = json.dumps(value, ensure_ascii=draw.random() < 0.5)
    except RecursionError:
        text = "[" * 20_000
    if draw.random() < 0.1 and '": ' in text:
        place = draw.choice([i for i in range(len(text)) if text.startswith('": ', i)])
        start = text.rindex('"', 0, place)
        text = f"{text[:start]}{text[start : place + 1]}: 0, {text[start:]}"
    return text.encode("utf-8", "surrogatepass")

"""Crash-safe store of job results: SQLite with a write-ahead log.

Each row has a seal, the digest of all that it says, and the number of rows stands in the file: a row that was changed
by anything but `Store.put` does not count, and its job is run again. Rows of version 0.1 have no seal; they are
believed if their key is that of their job, and sealed when the file is first written to.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from rulepatch.digests import digest_of_json
from rulepatch.errors import OutputError, SettingError, warn
from rulepatch.escaping import for_terminal
from rulepatch.files import atomic_path
from rulepatch.reading import is_regular, parse_json
from rulepatch.text import plural

__all__ = ["Record", "Store", "job_key", "read_records"]

APPLICATION = 0x72756C65
"""SQLite application id ("rule") of the file."""

COLUMNS = "key, status, job, result, error, attempts, seconds"

MIGRATIONS = (
    "CREATE TABLE jobs (key TEXT PRIMARY KEY, status TEXT NOT NULL, job TEXT NOT NULL, result TEXT, error TEXT, "
    "attempts INTEGER NOT NULL, seconds REAL NOT NULL) WITHOUT ROWID",
    "ALTER TABLE jobs ADD COLUMN seal TEXT; CREATE TABLE tally (n INTEGER NOT NULL); INSERT INTO tally VALUES (0)",
)
"""Schema migrations; the version is their number. Existing ones must not be changed."""

SEALED = 2
"""The version from which on rows have a seal."""


def job_key(job: Mapping[str, Any]) -> str:
    """Key of a job: digest of its specification.

    Args:
        job: JSON; the order of keys does not matter.

    Examples:
        >>> job_key({"site": "fc", "seed": 0}) == job_key({"seed": 0, "site": "fc"})
        True
    """
    return digest_of_json(dict(job))


@dataclass(frozen=True)
class Record:
    """Record of a job.

    Attributes:
        job: everything that determines its result, as JSON.
        status: whether it was done or failed.
        result: as JSON; None if it failed.
        error: why it failed; None if it did not.
        attempts: number of attempts, including this one.
        seconds: duration of the last attempt.
    """

    job: Mapping[str, Any]
    status: Literal["done", "failed"]
    result: Mapping[str, Any] | None
    error: str | None = None
    attempts: int = 1
    seconds: float = 0.0

    @property
    def key(self) -> str:
        """The job's key."""
        return job_key(self.job)


class Store:
    """The records of many jobs, in one file; one process writes, any may read meanwhile. A context manager.

    Not for network file systems, on which SQLite's locks cannot be relied on.

    Args:
        path: the file; created if missing.
        read_only: open an existing file without changing it.

    Raises:
        OutputError: the file is none of ours, was written by a newer version, or cannot be opened.

    Examples:
        >>> path = Path(getfixture("tmp_path")) / "results.sqlite"
        >>> with Store(path) as store:
        ...     store.put(Record({"seed": 0}, "done", {"corrected": 0.5}))
        >>> with Store(path) as store:
        ...     [record.result for record in store], job_key({"seed": 0}) in store.done()
        ([{'corrected': 0.5}], True)
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        if path.exists() and not is_regular(path):
            raise OutputError(f"expected a file of results at {path} but it is a folder or a device; name another")
        self._path, self._read_only = path, read_only
        self._connect()

    def _connect(self) -> None:
        # "ro" would leave log files behind; "rw" does not create a file either
        where = f"{self._path.absolute().as_uri()}?mode=rw" if self._read_only else self._path
        with self._told():
            self._file = sqlite3.connect(where, timeout=30, uri=self._read_only)
            try:
                self._open(self._path, read_only=self._read_only)
            except BaseException:
                self.close()
                raise

    def _open(self, path: Path, *, read_only: bool) -> None:
        self._file.text_factory = bytes  # a text that is no UTF-8 is its row's fault, and no other's
        self._check(path, read_only=read_only)
        if read_only:
            self._file.execute("PRAGMA query_only=ON")
            return
        self._file.execute("PRAGMA journal_mode=WAL")
        self._file.execute("PRAGMA synchronous=NORMAL")  # a system crash may lose the last records
        self._migrate()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Whatever SQLite says of a damaged, locked or full file, as a sentence."""
        try:
            yield
        except (sqlite3.Error, sqlite3.Warning, OverflowError, TypeError, UnicodeError) as error:
            raise OutputError(
                f"expected a file of results at {self._path} but it cannot be used ({error}); get a sound copy or name "
                "another"
            ) from None

    def _check(self, path: Path, *, read_only: bool) -> None:
        """Refuse files of other applications before writing; an empty file is accepted unless read-only."""
        version = self._version()
        (owner,) = self._file.execute("PRAGMA application_id").fetchone()
        tables = self._file.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        foreign = owner != APPLICATION and (tables or read_only)
        if foreign or not (1 if read_only else 0) <= version <= len(MIGRATIONS):
            what = f"of version {version}" if owner == APPLICATION else "of another program"
            raise OutputError(
                f"expected results of version {len(MIGRATIONS)} at most in {path} but got a file {what}; "
                "name another, or use a newer rulepatch"
            )

    def _migrate(self) -> None:
        if self._version() == len(MIGRATIONS):
            return
        with self._file:
            self._file.execute("BEGIN IMMEDIATE")
            for number in range(self._version(), len(MIGRATIONS)):  # another process may have migrated it
                for statement in MIGRATIONS[number].split(";"):
                    self._file.execute(statement)
                self._file.execute(f"PRAGMA application_id = {APPLICATION}")
                self._file.execute(f"PRAGMA user_version = {number + 1}")
                if number + 1 == SEALED:
                    self._seal()

    def _seal(self) -> None:
        """Seal the rows of an older version, whose keys are right."""
        for row in self._file.execute(f"SELECT {COLUMNS}, NULL FROM jobs").fetchall():
            if _record(row, sealed=False) is not None:
                self._file.execute("UPDATE jobs SET seal = ? WHERE key = ?", (_seal(row[:-1]), row[0].decode()))
        self._file.execute("UPDATE tally SET n = (SELECT count(*) FROM jobs)")

    def _version(self) -> int:
        return int(self._file.execute("PRAGMA user_version").fetchone()[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def put(self, record: Record) -> None:
        """Store a record durably, replacing an earlier one of the same job.

        Raises:
            OutputError: the file is damaged, locked or only read, or the disk is full.
        """
        row = (
            record.key, record.status, _text(record.job), None if record.result is None else _text(record.result),
            None if record.error is None else for_terminal(record.error), record.attempts, float(record.seconds),
        )  # fmt: skip
        sealed = (*row, _seal(row))
        with self._told(), self._file:
            (known,) = self._file.execute("SELECT count(*) FROM jobs WHERE key = ?", row[:1]).fetchone()
            self._file.execute(f"INSERT OR REPLACE INTO jobs ({COLUMNS}, seal) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", sealed)
            self._file.execute("UPDATE tally SET n = n + ?", (1 - known,))

    def done(self) -> set[str]:
        """Keys of the jobs that are done."""
        return {record.key for record in self if record.status == "done"}

    def attempts(self) -> dict[str, int]:
        """Attempts of each failed job."""
        return {record.key: record.attempts for record in self if record.status == "failed"}

    def damaged(self) -> int:
        """How many rows are lost, or are not as they were put."""
        return self._read()[1]

    def mend(self) -> int:
        """If anything is damaged, write what is sound into a new file in its place; the jobs of the rest are run again.

        Returns:
            How many results were lost, or not as they were put.
        """
        sound, damaged = self._read()
        with self._told():
            whole = self._file.execute("PRAGMA quick_check(1)").fetchone() == (b"ok",)
        if damaged or not whole:
            self.close()
            with atomic_path(self._path) as unfinished:
                with Store(unfinished) as fresh:
                    for record in sound:
                        fresh.put(record)
                for end in ("-wal", "-shm"):  # which would be taken for the new file's
                    self._path.with_name(self._path.name + end).unlink(missing_ok=True)
            self._connect()
        return damaged

    def _read(self) -> tuple[list[Record], int]:
        """The sound records, by key, and how many others there are or were."""
        with self._told():
            sealed = self._version() >= SEALED
            rows = self._file.execute(f"SELECT {COLUMNS}, {'seal' if sealed else 'NULL'} FROM jobs ORDER BY key")
            found: dict[str, Record] = {}
            count, last = 0, ""
            for row in rows:
                count += 1
                record = _record(row, sealed=sealed)
                if record is not None and record.key > last:  # rows in disorder would not be found by their keys
                    found[record.key] = record
                    last = record.key
            told = int(self._file.execute("SELECT n FROM tally").fetchone()[0]) if sealed else count
        return list(found.values()), max(count, told) - len(found)

    def __iter__(self) -> Iterator[Record]:
        """Every sound record, sorted by key, independent of the order of completion."""
        return iter(self._read()[0])

    def __len__(self) -> int:
        with self._told():
            return int(self._file.execute("SELECT count(*) FROM jobs").fetchone()[0])


def read_records(path: Path) -> list[Record]:
    """Read every record of an existing store.

    Args:
        path: the file.

    Returns:
        Records, by key; at least one.

    Raises:
        SettingError: there is no file, or no record in it.
        OutputError: the file is none of ours, of another version, or cannot be opened, or every row is damaged.
    """
    if not path.exists():  # for a clearer message than SQLite's
        raise SettingError(f"expected a file of results at {path} but there is none; make it with the command `sweep`")
    with Store(path, read_only=True) as store:
        records, damaged = store._read()
    if damaged and not records:
        raise OutputError(f"expected results in {path} but all {damaged} are damaged; run the sweep again")
    if damaged:
        warn(
            f"{plural(damaged, 'result')} of {path} {'is' if damaged == 1 else 'are'} damaged and left out; run the "
            "sweep again, which makes what is missing anew"
        )
    if not records:
        raise SettingError(
            f"expected results in {path} but it has none yet; wait until the first job of the sweep is done"
        )
    return records


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(dict(value), sort_keys=True)  # ASCII: a file's name may be no Unicode


def _seal(row: Sequence[Any]) -> str:
    """Digest of all that a row says."""
    plain = [each.decode() if isinstance(each, bytes) else each for each in row]
    return digest_of_json([*plain[:-1], float(plain[-1])])


def _record(row: Sequence[Any], *, sealed: bool) -> Record | None:
    """The record of a row as it lies in the file; None if it is not as it was put."""
    try:
        if sealed and row[-1].decode() != _seal(row[:-1]):
            return None
        key, status, error = (None if each is None else each.decode() for each in (row[0], row[1], row[4]))
        job, result = (parse_json(each or "null", "a row", OutputError, free=True) for each in row[2:4])
    except (OutputError, AttributeError, TypeError, ValueError):
        return None
    fits = isinstance(job, dict) and isinstance(result, dict if status == "done" else type(None))
    numbers = type(row[5]) is int and isinstance(row[6], int | float)
    if not fits or not numbers or status not in {"done", "failed"} or job_key(job) != key:
        return None
    return Record(job, status, result, error, row[5], row[6])

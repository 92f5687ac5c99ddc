"""Crash-safe store of job results: SQLite with a write-ahead log."""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from rulepatch.digests import digest_of_json
from rulepatch.errors import OutputError, SettingError
from rulepatch.escaping import for_terminal

__all__ = ["Record", "Store", "job_key", "read_records"]

APPLICATION = 0x72756C65
"""SQLite application id ("rule") of the file."""

COLUMNS = "key, status, job, result, error, attempts, seconds"

MIGRATIONS = (
    "CREATE TABLE jobs (key TEXT PRIMARY KEY, status TEXT NOT NULL, job TEXT NOT NULL, result TEXT, error TEXT, "
    "attempts INTEGER NOT NULL, seconds REAL NOT NULL) WITHOUT ROWID",
)
"""Schema migrations; the version is their number. Existing ones must not be changed."""


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
        # "ro" would leave log files behind; "rw" does not create a file either
        where = f"{path.absolute().as_uri()}?mode=rw" if read_only else path
        try:
            self._file = sqlite3.connect(where, timeout=30, uri=read_only)
            self._check(path, read_only=read_only)
            if read_only:
                self._file.execute("PRAGMA query_only=ON")
                return
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=NORMAL")  # a system crash may lose the last records
            self._migrate()
        except sqlite3.Error as error:
            raise OutputError(
                f"expected a file of results at {path} but it cannot be opened ({error}); name another"
            ) from None

    def _check(self, path: Path, *, read_only: bool) -> None:
        """Refuse files of other applications before writing; an empty file is accepted unless read-only."""
        version = self._version()
        (owner,) = self._file.execute("PRAGMA application_id").fetchone()
        tables = self._file.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        foreign = owner != APPLICATION and (tables or read_only)
        if foreign or version > len(MIGRATIONS) or (read_only and version < len(MIGRATIONS)):
            self.close()
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
                self._file.execute(MIGRATIONS[number])
                self._file.execute(f"PRAGMA application_id = {APPLICATION}")
                self._file.execute(f"PRAGMA user_version = {number + 1}")

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
        """Store a record durably, replacing an earlier one of the same job."""
        row = (
            record.key, record.status, _text(record.job), None if record.result is None else _text(record.result),
            None if record.error is None else for_terminal(record.error), record.attempts, record.seconds,
        )  # fmt: skip
        with self._file:
            self._file.execute(f"INSERT OR REPLACE INTO jobs ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def done(self) -> set[str]:
        """Keys of the jobs that are done."""
        return {key for (key,) in self._file.execute("SELECT key FROM jobs WHERE status = 'done'")}

    def attempts(self) -> dict[str, int]:
        """Attempts of each failed job."""
        return dict(self._file.execute("SELECT key, attempts FROM jobs WHERE status = 'failed'"))

    def __iter__(self) -> Iterator[Record]:
        """Every record, sorted by key, independent of the order of completion."""
        for status, job, result, error, attempts, seconds in self._file.execute(
            "SELECT status, job, result, error, attempts, seconds FROM jobs ORDER BY key"
        ):
            found = None if result is None else json.loads(result)
            yield Record(json.loads(job), status, found, error, attempts, seconds)

    def __len__(self) -> int:
        return int(self._file.execute("SELECT count(*) FROM jobs").fetchone()[0])


def read_records(path: Path) -> list[Record]:
    """Read every record of an existing store.

    Args:
        path: the file.

    Returns:
        Records, by key; at least one.

    Raises:
        SettingError: there is no file, or no record in it.
        OutputError: the file is none of ours, of another version, or cannot be opened.
    """
    if not path.exists():  # for a clearer message than SQLite's
        raise SettingError(f"expected a file of results at {path} but there is none; make it with the command `sweep`")
    with Store(path, read_only=True) as store:
        records = list(store)
    if not records:
        raise SettingError(
            f"expected results in {path} but it has none yet; wait until the first job of the sweep is done"
        )
    return records


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(dict(value), sort_keys=True)  # ASCII: a file's name may be no Unicode

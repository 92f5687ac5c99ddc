"""The jobs of a sweep that failed, and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rulepatch.sweeps.results import names_of
from rulepatch.sweeps.store import Record, read_records
from rulepatch.text import plural

__all__ = ["Failure", "Failures"]

SHOWN = 3
"""Most jobs listed of each error; the JSON has all."""


@dataclass(frozen=True)
class Failure:
    """A job that failed.

    Attributes:
        key: of the job.
        what: description of the job.
        attempts: number of attempts.
        error: the message; a traceback for unexpected exceptions.
    """

    key: str
    what: str
    attempts: int
    error: str


@dataclass(frozen=True)
class Failures:
    """The jobs of a store that failed.

    Attributes:
        store: the file of results.
        jobs: that have a record.
        failed: those that failed.
    """

    store: Path
    jobs: int
    failed: tuple[Failure, ...]

    @classmethod
    def read(cls, store: Path | str) -> Self:
        """Find the jobs of a store that failed.

        Args:
            store: the file of results; it is left as it is.

        Raises:
            SettingError: there is no file, or no result of a sweep in it.
            OutputError: the file is none of ours.
        """
        records = read_records(Path(store))
        names = names_of(records)
        failed = [
            Failure(each.key, _described(each, names), each.attempts, each.error or "it did not say why")
            for each in records
            if each.result is None
        ]
        return cls(Path(store), len(records), tuple(sorted(failed, key=lambda each: (each.what, each.key))))

    def to_json(self) -> dict[str, Any]:
        """Every failure, as JSON."""
        return {"store": str(self.store), "jobs": self.jobs, "failed": [vars(each) for each in self.failed]}

    def to_text(self) -> str:
        """The errors, the most frequent first, each with some of its jobs."""
        if not self.failed:
            return f"none of {plural(self.jobs, 'job')} failed"
        by_error: dict[str, list[Failure]] = {}
        for each in self.failed:
            by_error.setdefault(each.error, []).append(each)
        lines = [f"{len(self.failed):,} of {plural(self.jobs, 'job')} failed"]
        for error, own in sorted(by_error.items(), key=lambda pair: (-len(pair[1]), pair[0])):
            lines += ["", f"{plural(len(own), 'job')}:", *(f"  {line}" for line in error.splitlines())]
            lines += [f"- {each.what} ({plural(each.attempts, 'attempt')})" for each in own[:SHOWN]]
            lines += [f"- and {len(own) - SHOWN:,} more"] if len(own) > SHOWN else []
        return "\n".join(lines)


def _described(record: Record, names: Mapping[str, str]) -> str:
    """Description of a job."""
    job = record.job
    settings = ", ".join(f"{key} {value}" for key, value in job["settings"].items())
    where = "" if job["site"] is None else f" at {job['site']}"
    model = names.get(job["model"], f"model {job['model'][:8]}")
    case, count = job["case"], plural(job["exemplars"], "exemplar")
    return (
        f"{job['method']}{f' ({settings})' if settings else ''}{where} of {model}: "
        f"{case['concept']} in {case['style']}, {count} of {job['target']}, seed {job['seed']}"
    )

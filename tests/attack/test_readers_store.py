"""Stores of sweeps that were damaged, or written by somebody else: another result is never read in silence."""

import json
import os
import sqlite3
import warnings
from contextlib import suppress

import pytest

from rulepatch.errors import OutputError, RulepatchError, RulepatchWarning
from rulepatch.sweeps import store as stores
from rulepatch.sweeps.analysis import SweepReport
from rulepatch.sweeps.export import export_records
from rulepatch.sweeps.failures import Failures
from rulepatch.sweeps.store import Record, Store, job_key, read_records
from tests.attack.fuzz import MARKS, as_json, attack, of_bytes, of_structure

pytestmark = MARKS


@pytest.fixture
def path(tmp_path, sweep_record):
    """A small sweep."""
    records = [
        sweep_record(method, style, gained=gained, settings={"rank": rank}, target="van é")
        for method in ("rewrite", "dense") for style in ("snow", "mud") for rank, gained in ((1, 5), (2, 0))
    ]  # fmt: skip
    records.append(sweep_record("rewrite", "ice", status="failed"))
    with Store(tmp_path / "sound.sqlite") as store:
        for each in records:
            store.put(each)
    return tmp_path / "sound.sqlite"


@pytest.fixture
def sound(path):
    return {record.key: record for record in read_records(path)}


def use(path, sound):
    """All that reads a store; what is read is what was put, or a warning says that something is left out."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = read_records(path)
    assert all(record == sound[record.key] for record in found)
    lost = len(sound) - len(found)
    assert not lost or any(issubclass(each.category, RulepatchWarning) for each in told), f"{lost} lost in silence"
    SweepReport.read(path, least=1).to_text(), Failures.read(path).to_text()
    export_records(path, path.with_suffix(".csv"))


def go_on(path, sound):
    """What `sweep` does with it: what is missing is put again, and then everything is there."""
    with Store(path) as store:
        store.mend()
        done = store.done()
        assert done <= {key for key, record in sound.items() if record.status == "done"}
        for key, record in sound.items():
            if key not in done:
                store.put(record)
        assert list(store) == [sound[key] for key in sorted(sound)] and store.damaged() == 0


@pytest.mark.parametrize("kind", ["bytes", "bits"])
def test_bytes(path, sound, kind):
    content, other = path.read_bytes(), path.with_name("other.sqlite")

    def mutated(draw):
        if kind == "bytes":
            return of_bytes(content, draw)
        found, place = bytearray(content), draw.randrange(len(content))
        found[place] ^= 1 << draw.randrange(8)
        return bytes(found)

    def read(given):
        for end in ("-wal", "-shm", "-journal"):
            other.with_name(other.name + end).unlink(missing_ok=True)
        other.write_bytes(given)
        try:
            use(other, sound)
        finally:
            try:
                go_on(other, sound)
            except OutputError as error:
                assert "expected" in str(error)

    attack(f"store-{kind}", mutated, read).close()


@pytest.mark.parametrize("sealed", [True, False])
def test_rows(path, sound, sealed):
    """Rows of other contents: without their seal they are noticed; with it they are what somebody wrote on purpose."""
    content, other = path.read_bytes(), path.with_name("other.sqlite")
    names = ("key", "status", "job", "result", "error", "attempts", "seconds")

    def mutated(draw):
        record = draw.choice(list(sound.values()))
        row = [record.key, record.status, record.job, record.result, record.error, record.attempts, record.seconds]
        place = draw.randrange(len(names))
        if place in {2, 3} and row[place] is not None:
            row[place] = as_json(of_structure(row[place], draw), draw).decode("utf-8", "replace")
        else:
            odd = (None, "", "x", "done", "failed", -1, 2**62, 0.5, 1e300, b"\xff", "[" * 5000, "{}")
            row[place] = draw.choice(odd)
        for each in (2, 3):
            if isinstance(row[each], dict):
                row[each] = json.dumps(row[each], sort_keys=True, ensure_ascii=False)
        if sealed and draw.random() < 0.7:
            with suppress(ValueError, TypeError, RecursionError):
                row[0] = job_key(json.loads(row[2]))
        return record.key, row

    def read(given):
        other.write_bytes(content)
        file = sqlite3.connect(other)
        key, row = given
        try:
            (seal,) = file.execute("SELECT seal FROM jobs WHERE key = ?", [key]).fetchone()
            seal = stores._seal(row) if sealed else seal
            with file:
                file.execute("DELETE FROM jobs WHERE key = ?", [key])
                file.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [*row, seal])
        except (sqlite3.Error, TypeError, ValueError, OverflowError):
            return
        finally:
            file.close()
        if not sealed:
            use(other, sound)
            go_on(other, sound)
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for record in read_records(other):
                assert record.status in {"done", "failed"} and isinstance(record.job, dict)
                assert (record.result is None) == (record.status == "failed") and record.key == job_key(record.job)
            SweepReport.read(other, least=1).to_text(), Failures.read(other).to_text()
            export_records(other, other.with_suffix(".csv"))

    attack(f"store-rows{'-sealed' if sealed else ''}", mutated, read).close()


def older(path):
    """A store as version 0.1 wrote it."""
    with sqlite3.connect(path) as file:
        file.executescript("ALTER TABLE jobs DROP COLUMN seal; DROP TABLE tally; PRAGMA user_version = 1")
    file.close()


def test_stores_of_version_0_1_are_read_and_sealed(path, sound):
    older(path)
    before = path.read_bytes()
    assert {record.key: record for record in read_records(path)} == sound and path.read_bytes() == before
    with Store(path) as store:
        assert len(store.done()) == 8 and store.damaged() == 0
    with sqlite3.connect(path) as file:
        file.execute("UPDATE jobs SET attempts = 7 WHERE status = 'failed'")
    file.close()
    with pytest.warns(RulepatchWarning, match="1 result of .* is damaged and left out"):
        assert len(read_records(path)) == len(sound) - 1


def test_rows_of_version_0_1_whose_key_is_another_jobs_are_not_believed(path, sound):
    older(path)
    with sqlite3.connect(path) as file:
        file.execute("""UPDATE jobs SET job = replace(job, '"snow"', '"sand"')""")
    file.close()
    with pytest.warns(RulepatchWarning, match="4 results"):
        assert all(record == sound[record.key] for record in read_records(path))
    with Store(path) as store:
        assert store.mend() == 4 and store.mend() == 0


def test_a_row_that_is_lost_is_noticed(path, sound):
    with sqlite3.connect(path) as file:
        file.execute("DELETE FROM jobs WHERE status = 'failed'")
    file.close()
    with pytest.warns(RulepatchWarning, match="1 result of"):
        read_records(path)


def test_names_that_are_no_utf_8_can_be_put(tmp_path):
    record = Record({"a": "caf\udce9"}, "failed", None, "no file caf\udce9")
    with Store(tmp_path / "s.sqlite") as store:
        store.put(record)
        assert [each.job for each in store] == [record.job] and store.damaged() == 0


WAYS = {
    "fifo": os.mkfifo,
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "text": lambda path: path.write_text("no database " * 400),
    "half": lambda path: path.write_bytes(b"SQLite format 3\x00"),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_no_store_is_refused(tmp_path, way):
    WAYS[way](tmp_path / "s.sqlite")
    for read in (read_records, Store):
        with pytest.raises(RulepatchError, match="expected"):
            read(tmp_path / "s.sqlite")

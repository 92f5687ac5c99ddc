"""The store of results: what is put is there whatever happens next, and no other file is touched."""

import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from rulepatch.errors import OutputError, SettingError
from rulepatch.sweeps import store as stores
from rulepatch.sweeps.store import Record, Store, job_key, read_records


def record(seed, status="done", **fields):
    return Record({"seed": seed, "site": "fc"}, status, {"x": seed / 7} if status == "done" else None, **fields)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.sqlite"


def test_what_is_put_is_read_back_as_it_was(path):
    records = [record(i, seconds=0.1 * i) for i in range(5)] + [record(9, "failed", error="x: y", attempts=3)]
    with Store(path) as store:
        for each in records:
            store.put(each)
    with Store(path) as store:
        assert sorted(store, key=lambda each: each.job["seed"]) == records and len(store) == 6
        assert store.done() == {job_key(each.job) for each in records[:5]}
        assert store.attempts() == {records[5].key: 3}


def test_the_order_does_not_depend_on_who_finished_first(path, tmp_path):
    with Store(path) as one, Store(tmp_path / "other") as other:
        for i in range(20):
            one.put(record(i))
            other.put(record(19 - i))
        assert list(one) == list(other)


def test_a_later_record_replaces_an_earlier_one(path):
    with Store(path) as store:
        store.put(record(1, "failed", error="first"))
        store.put(record(1, attempts=2))
        assert [each.status for each in store] == ["done"] and not store.attempts()


def test_keys_tell_jobs_apart():
    jobs = [{"seed": 0}, {"seed": 1}, {"seed": "0"}, {"site": 0}, {"seed": 0, "site": None}]
    assert len({job_key(job) for job in jobs}) == len(jobs)


def test_what_was_put_survives_the_death_of_the_writer(path):
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom rulepatch.sweeps.store import *\n"
        "store = Store(Path(sys.argv[1]))\n"
        "for i in range(50): store.put(Record({'seed': i}, 'done', {}))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], env=os.environ)
    assert done.returncode == -signal.SIGKILL
    with Store(path) as store:
        assert len(store) == 50
        store.put(record(99))


def test_it_can_be_read_while_it_is_written(path):
    with Store(path) as writer, Store(path) as reader:
        for i in range(10):
            writer.put(record(i))
            assert len(reader) == i + 1


def test_files_of_others_are_left_alone(path, tmp_path):
    with sqlite3.connect(tmp_path / "other.sqlite") as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    (tmp_path / "text").write_text("no database, but long enough to look at " * 40)
    (tmp_path / "folder").mkdir()
    for name in ("other.sqlite", "text", "folder"):
        before = (tmp_path / name).stat().st_mtime_ns
        with pytest.raises(OutputError, match="expected"):
            Store(tmp_path / name)
        assert (tmp_path / name).stat().st_mtime_ns == before


def test_an_older_schema_is_migrated_and_a_newer_one_refused(path, monkeypatch):
    with Store(path) as store:
        store.put(record(1))
    newer = (*stores.MIGRATIONS, "ALTER TABLE jobs ADD COLUMN host TEXT DEFAULT 'here'")
    with monkeypatch.context() as patch:
        patch.setattr(stores, "MIGRATIONS", newer)
        with Store(path) as store:
            assert list(store) == [record(1)]
            store.put(record(2))
    with pytest.raises(OutputError, match="version 2"):
        Store(path)


def test_reading_makes_and_changes_no_file(path, tmp_path):
    with pytest.raises(SettingError, match="there is none"):
        read_records(path)
    assert not path.exists()
    with Store(path) as store:
        store.put(record(1))
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("no database, but long enough to look at " * 40)
    (tmp_path / "folder").mkdir()
    before = path.read_bytes()
    assert read_records(path) == [record(1)] and path.read_bytes() == before
    for name in ("empty", "text", "folder"):
        with pytest.raises(OutputError, match="expected"):
            read_records(tmp_path / name)
    assert (tmp_path / "empty").stat().st_size == 0
    assert {each.name for each in tmp_path.iterdir()} == {path.name, "empty", "text", "folder"}


def test_a_store_without_records_is_nothing_to_read(path):
    Store(path).close()
    with pytest.raises(SettingError, match="none yet"):
        read_records(path)


def test_a_running_sweep_can_be_read(path):
    with Store(path) as writer:
        for i in range(3):
            writer.put(record(i))
            assert len(read_records(path)) == i + 1


def test_who_only_reads_cannot_write(path):
    with Store(path) as store:
        store.put(record(1))
    with Store(path, read_only=True) as store, pytest.raises(OutputError, match="readonly"):
        store.put(record(2))

"""Workers: every item once, whatever becomes of those who work on it."""

import os
import signal
import socket
import subprocess
import sys
import time
import warnings

import pytest

from rulepatch.errors import SettingError, WorkerError
from rulepatch.parallel import workers as workers_module
from rulepatch.parallel.workers import LOCAL, Lost, Workers


def square(item):
    return item * item, os.getpid()


def dies_of_seven(item):
    if item == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


def dies_once(item):
    """The first to come dies, and leaves a file that says so."""
    number, folder = item
    try:
        (folder / "died").touch(exist_ok=False)
    except FileExistsError:
        return number
    return os.kill(os.getpid(), signal.SIGKILL)


def refuses(item):
    raise ValueError(f"not {item}")


kept = []


def keeps_a_lot(item):
    """As a worker that holds activations from its second item on; how much it has grown is looked at each second."""
    kept.append(b"1" * 400_000_000 if len(kept) == 1 else b"")
    time.sleep(0.6)
    return item, os.getpid()


ENGINES = [{"count": 1}, {"count": 2}, pytest.param({"count": 2, "dask": LOCAL}, marks=pytest.mark.slow)]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_item_comes_back_once(engine):
    with Workers(**engine) as workers:
        found = dict(workers.run(square, range(20)))
        again = dict(workers.run(square, range(3)))  # workers can be used again
    assert {item: result for item, (result, _) in found.items()} == {item: item * item for item in range(20)}
    assert len(again) == 3
    here = {process for _, process in found.values()} == {os.getpid()}
    assert here == (engine["count"] == 1)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES[1:])
def test_who_dies_of_an_item_takes_nothing_else_along(engine):
    with Workers(**engine) as workers:
        found = dict(workers.run(dies_of_seven, range(20)))
    assert isinstance(found.pop(7), Lost)
    assert found == {item: item * item for item in range(20) if item != 7}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES[1:])
def test_who_dies_once_is_replaced(engine, tmp_path):
    with Workers(**engine) as workers:
        found = sorted(result for _, result in workers.run(dies_once, [(i, tmp_path) for i in range(8)]))
    assert found == list(range(8)) and (tmp_path / "died").exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_what_the_function_raises_ends_the_run(engine):
    with Workers(**engine) as workers, pytest.raises(ValueError, match="not"):
        list(workers.run(refuses, range(5)))


@pytest.mark.slow
def test_a_worker_that_keeps_a_lot_for_its_items_is_not_restarted():
    with Workers(2) as workers:
        processes = [process for _, (_, process) in workers.run(keeps_a_lot, range(16))]
    assert len(set(processes)) == 2


def test_bad_numbers_and_addresses_are_refused():
    with pytest.raises(SettingError, match="at least 1 worker"):
        Workers(0)
    pytest.importorskip("distributed")
    with pytest.raises(SettingError, match="none answers"):
        Workers(1, dask="nonsense")


@pytest.mark.slow
def test_a_cluster_is_reached_by_its_address_and_outlives_its_users():
    distributed = pytest.importorskip("distributed")
    settings = {"n_workers": 2, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(**settings) as cluster:
        for _ in range(2):
            with Workers(1, dask=cluster.scheduler_address) as workers:
                assert workers.count == 2
                assert sorted(item for item, _ in workers.run(square, range(9))) == list(range(9))


@pytest.mark.slow
def test_clusters_of_one_machine_stand_beside_each_other_and_listen_on_the_loopback_alone():
    psutil = pytest.importorskip("psutil")
    pytest.importorskip("distributed")
    with Workers(1, dask=LOCAL), Workers(1, dask=LOCAL):
        here = psutil.Process()
        sockets = [each for one in (here, *here.children(recursive=True)) for each in one.net_connections()]
        assert {each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN} == {"127.0.0.1"}


@pytest.fixture
def scheduler():
    """A Dask scheduler without workers: its address, and its process."""
    pytest.importorskip("distributed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    program = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", port]
    process = subprocess.Popen([*program, "--no-dashboard"], stderr=subprocess.DEVNULL)
    yield f"tcp://127.0.0.1:{port}", process
    process.kill()
    process.wait()


@pytest.mark.slow
def test_a_cluster_without_workers_is_warned_of_and_a_scheduler_that_is_gone_is_named(scheduler, monkeypatch, capfd):
    address, process = scheduler
    monkeypatch.setattr(workers_module, "PATIENCE", 0.5)
    said = []

    def show(message, *more):
        said.append(str(message))
        process.kill()

    with warnings.catch_warnings(), Workers(1, dask=address) as workers:
        warnings.simplefilter("always")
        warnings.showwarning = show
        with pytest.raises(WorkerError, match=f"scheduler at {address} to stay but it is gone"):
            list(workers.run(square, [1, 2]))
    assert ["has no worker" in each for each in said] == [True] and "Traceback" not in capfd.readouterr().err

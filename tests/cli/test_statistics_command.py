"""`rulepatch statistics`, on the small world of the command line."""

import pytest


@pytest.fixture
def command(world):
    return ("statistics", f"{world / 'net.py'}:build", "--reference", world / "reference", "--site", "3")


def test_an_edit_finds_what_it_computed(run, command, editing, tmp_path, monkeypatch):
    monkeypatch.setenv("RULEPATCH_CACHE", str(tmp_path / "without"))
    assert run(*editing(tmp_path / "plain.safetensors")).code == 0
    monkeypatch.setenv("RULEPATCH_CACHE", str(tmp_path / "cache"))
    told = run(*command, "--json").json()
    assert told["sites"] == [{"site": "3", "channels": 8, "keys": 18 * 256, "sample": 18 * 256, "computed": True}]
    assert (told["pictures"], told["processes"], told["cache"]) == (18, 1, str(tmp_path / "cache"))
    monkeypatch.setattr("rulepatch.data.statistics.ImageStream", lambda *_, **__: pytest.fail("nothing to compute"))
    assert run(*editing(tmp_path / "found.safetensors")).code == 0
    assert (tmp_path / "found.safetensors").read_bytes() == (tmp_path / "plain.safetensors").read_bytes()


def test_people_are_told_what_the_cache_has(run, command, tmp_path, monkeypatch):
    monkeypatch.setenv("RULEPATCH_CACHE", str(tmp_path / "cache"))
    first, again = run(*command).out, run(*command, "--site", "3").out
    assert "18 images, 1 process, " in first and str(tmp_path / "cache") in first
    assert "new" in first and "found" in again and "new" not in again


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--site", "33"], "'33'"),
        (["--reference", "nowhere"], "nowhere"),
        (["--leave-out", "purple"], "'purple'"),
        (["--architecture", "3"], "architecture 1 or 2"),
        (["--workers", "0"], "at least 1 worker"),
        (["--seed", "-1"], "--seed"),
        (["--weights", "missing.safetensors"], "missing.safetensors"),
        (["--dask", "nonsense://here"], "Dask scheduler"),
    ],
)
def test_bad_input_is_one_sentence(run, command, tmp_path, monkeypatch, options, message):
    monkeypatch.setenv("RULEPATCH_CACHE", str(tmp_path / "cache"))
    done = run(*command, *options)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith("rulepatch: ") and message in done.err
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("environment", "options", "message"),
    [
        ({"WORLD_SIZE": "2"}, [], "RANK"),
        ({"WORLD_SIZE": "many", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}, [], "torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, ["--device", "cuda:1"], "say cuda"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, ["--device", "cuda"], "LOCAL_RANK"),
    ],
)
def test_half_an_environment_of_torchrun_is_one_sentence(run, command, monkeypatch, environment, options, message):
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = run(*command, *options)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1) and message in done.err


def test_a_cache_that_cannot_be_written_to_is_an_error_here(run, command, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RULEPATCH_CACHE", str(tmp_path / "file"))
    done = run(*command)
    assert done.code == 2 and "set RULEPATCH_CACHE" in done.err

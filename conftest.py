"""What pytest collects in the folders of the package, and how much a test may do that is not marked slow."""

import gc
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # read when numpy and torch are loaded, here and in processes that tests start
    os.environ["OMP_NUM_THREADS"] = "1"

from torch import nn

SOURCE = Path(__file__).parent / "src"

MOST = {"layers": 4_000, "processes": 2}
"""What a quick test may do: modules of networks called, layers and those that hold them; processes started."""

done = dict.fromkeys(MOST, 0)


def pytest_configure() -> None:
    """Count what is done: not seconds, which depend on the machine and on who else works on it."""
    call = nn.Module.__call__

    def called(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        done["layers"] += 1
        return call(module, *args, **kwargs)

    def happened(event: str, _: object) -> None:
        if event == "subprocess.Popen":
            done["processes"] += 1

    nn.Module.__call__ = called  # torch.compile warns of hooks on all modules
    sys.addaudithook(happened)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Modules without an example need not be imported to look for one: some take seconds and a hundred MiB."""
    is_module = collection_path.suffix == ".py" and collection_path.is_relative_to(SOURCE)
    return True if is_module and ">>>" not in collection_path.read_text("utf-8") else None


def pytest_collection_finish() -> None:
    """What the imports and the collection made lives as long as the process: no collection looks at it again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Each test counts from nothing."""
    done.update(dict.fromkeys(MOST, 0))


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
    """What tests share is not counted: which of them comes first is chance."""
    before = dict(done)
    try:
        return (yield)
    finally:
        if fixturedef.scope != "function":
            done.update(before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """A quick test that does more than a quick test may fails, on every machine."""
    result = yield
    over = [f"{done[name]} {name} (at most {most})" for name, most in MOST.items() if done[name] > most]
    if over and item.get_closest_marker("slow") is None:
        pytest.fail(f"it does as much as a slow test, {' and '.join(over)}: mark it slow or have it do less")
    return result

"""Small networks with known structure, and the real data where it is at hand."""

import ctypes
import functools
import gc
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

from rulepatch.cli import main
from rulepatch.collectives import group_scope
from rulepatch.sweeps.store import Record, Store
from tests.fixtures import colours

DATA = Path(os.environ.get("RULEPATCH_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))


@pytest.fixture(scope="module", autouse=True)
def given_back():
    """After each file, memory that its tests no longer use goes back to the system; glibc keeps most of it."""
    yield
    gc.collect()
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test reads or fills the user's cache."""
    monkeypatch.setenv("RULEPATCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def all_threads():
    """Networks this small lose a hundredfold where threads of several processes wait for each other, real ones too.

    One thread before any other fixture of the session: what the fixtures build has the same bits as what tests build.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield threads
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def one_thread(request, all_threads):
    """Real networks have all threads where this process is the only one."""
    real = request.node.get_closest_marker("real") is not None
    torch.set_num_threads(all_threads if real and "PYTEST_XDIST_WORKER" not in os.environ else 1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data():
    """The folder of real weights and photographs."""
    if not (DATA / "weights").is_dir():
        pytest.skip(f"needs the real weights and photographs in {DATA} (or $RULEPATCH_DATA)")
    return DATA


@dataclass(frozen=True)
class Result:
    """What a run of the command line left behind."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The one JSON object on standard output; there is nothing else."""
        assert self.code == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def run(capsys):
    """Run the command line in this process."""

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return Result(left.value.code, out, err)

    return call


@pytest.fixture
def shell():
    """Run the command line in a process of its own."""

    def call(*arguments: object, **options: Any) -> Result:
        command = [sys.executable, "-m", "rulepatch", *map(str, arguments)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=6000, env=environment, **options)
        return Result(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def group(monkeypatch):
    """Run a function of each rank in threads that torch.distributed takes for processes; what they return or raise."""

    def call(count, function):
        own, given, found = threading.local(), [None] * count, [None] * count
        all_gave, all_took = threading.Barrier(count, timeout=600), threading.Barrier(count, timeout=600)

        def all_reduce(tensor):
            given[own.rank] = tensor.clone()
            all_gave.wait()
            total = functools.reduce(torch.add, given)
            all_took.wait()
            tensor.copy_(total)

        def process(rank):
            own.rank = rank
            try:
                with group_scope():
                    found[rank] = function(rank)
            except Exception as error:
                found[rank] = error
                all_gave.abort()  # as a connection is closed

        with monkeypatch.context() as patch:
            patch.setattr(distributed, "is_initialized", lambda: hasattr(own, "rank"))
            patch.setattr(distributed, "get_world_size", lambda: count)
            patch.setattr(distributed, "get_rank", lambda: own.rank)
            patch.setattr(distributed, "get_backend", lambda: "gloo")
            patch.setattr(distributed, "all_reduce", all_reduce)
            threads = [threading.Thread(target=process, args=(rank,)) for rank in range(count)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        return found

    return call


@pytest.fixture(scope="session")
def trained():
    """The classifier of `fixtures/colours.py`; nobody may change it."""
    return colours.trained()


class Residual(nn.Module):
    """A block like those of a ResNet: the second convolution's value comes after the residual sum and the ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


class Gated(nn.Module):
    """A convolution whose output is multiplied by a gate of its own (squeeze and excitation)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.squeeze = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        return out * self.squeeze(out.mean((2, 3), keepdim=True)).sigmoid()


def network() -> nn.Sequential:
    """Convolutions plain, pooled, residual, strided and gated, and a linear head; inputs (n, 3, 16, 16)."""
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        Residual(8),
        nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, padding=1, dilation=1), nn.BatchNorm2d(12), nn.SiLU()),
        Gated(12),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    )
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval()


@pytest.fixture
def net() -> nn.Sequential:
    return network()


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(4, 3, 16, 16)


@pytest.fixture
def untouched():
    """Hold a model to the promise that nothing of it is changed: weights, hooks, flags, gradients, forwards."""
    found = []

    def snapshot(model: nn.Module):
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        pointers = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
        flags = [module.training for module in model.modules()]
        modules = list(model.modules())

        def check() -> None:
            assert [id(module) for module in model.modules()] == [id(module) for module in modules]
            assert [module.training for module in model.modules()] == flags
            for name, tensor in model.state_dict().items():
                assert torch.equal(tensor, state[name]) and tensor.data_ptr() == pointers[name], name
            for module in model.modules():
                assert not module._forward_hooks and not module._forward_pre_hooks
                assert "forward" not in vars(module)
            assert all(parameter.grad is None for parameter in model.parameters())

        found.append(check)
        return check

    yield snapshot
    for check in found:
        check()


CELLS = ("target, train style", "target, held-out style", "other, train style", "other, held-out style")


def sweep_record(
    method="rewrite",
    style="snow",
    *,
    site="blocks.3.conv",
    gained=10,
    flips=5,
    corrected=5,
    caused=0,
    errors=10,
    lost=1,
    status="done",
    **job,
) -> Record:
    """A record as a sweep makes it: `gained` validation images, `corrected` of `errors` in every cell.

    No setting was chosen if nothing was gained. Corrected, caused and errors are numbers, or one for each cell.
    """
    concept = job.pop("concept", "road")
    what = {
        "schema": 1, "versions": {"torch": "2"}, "device": "cpu", "validation": 0.3, "max_drop": 0.0025,
        "model": "0123456789abcdef", "reference": "r" + concept, "target": "van", "members": None, "exemplars": 3,
        "seed": 0, "settings": {"rank": 1}, "method": method, "site": site,
    } | job  # fmt: skip
    cases = what.pop("cases", "roads")
    name = what.pop("name", "small net")
    what["case"] = {"concept": concept, "style": style, "digest": f"{cases}/{concept}/{style}"}
    if status == "failed":
        return Record(what, "failed", None, "ValueError: no memory", 3, 0.5)
    corrected, caused, errors = (
        each if isinstance(each, tuple) else (each,) * 4 for each in (corrected, caused, errors)
    )
    edited = gained > 0
    cells = {
        cell: {
            "n": 40, "right": 30 - errors[i], "repaired": edited * corrected[i], "broken": edited * caused[i],
            "flips": edited * (corrected[i] + caused[i]), "errors": errors[i],
            "left": errors[i] - edited * corrected[i], "caused": edited * caused[i],
        }
        for i, cell in enumerate(CELLS)
    }  # fmt: skip
    result = {
        "model": name,
        "cases": cases,
        "chosen": {
            "strength": 1,
            "validation": {"n": 50, "right": 20, "repaired": gained + 2, "broken": 2, "flips": gained + 4},
            "reference": {"n": 400, "right": 390, "repaired": 0, "broken": 0, "flips": flips},
        } if edited else None,
        "cells": cells,
        "reference": {"n": 400, "right": 391, "repaired": 1, "broken": lost + 1, "flips": 9} if edited else None,
    }  # fmt: skip
    return Record(what, "done", result, None, 1, 0.25)


@pytest.fixture(name="sweep_record", scope="session")
def sweep_record_fixture():
    """A function that makes a record of a sweep by hand."""
    return sweep_record


@pytest.fixture(scope="session")
def swept_records():
    """A sweep of six cases, several methods and sites, two numbers of exemplars, with failures."""
    found = []
    styles = ("snow", "sand", "gravel", "grass", "mud", "ice")
    methods = ("rewrite", "rewrite-mask", "projected-adam", "projected-adam-proj", "finetune-local",
               "finetune-local+proj", "finetune-global", "last-layer")  # fmt: skip
    for i, style in enumerate(styles):
        for m, method in enumerate(methods):
            for exemplars in (3, 10):
                for s, site in enumerate(("features.3", "features.10") if method != "last-layer" else (None,)):
                    for rank in (1, 3):
                        good = max(0, 8 - m + s + (exemplars == 10) - (i % 3) + (rank == 3))
                        failed = method == "finetune-global" and rank == 3 and style in {"snow", "ice"}
                        corrected = (min(good, 3 + i), *[min(good, 10)] * 3)
                        made = sweep_record(
                            method, style, site=site, exemplars=exemplars, settings={"rank": rank}, gained=good,
                            flips=i + s, corrected=corrected, caused=m % 3, errors=(3 + i, 10, 12, 14), lost=m % 4 - 1,
                            status="failed" if failed else "done",
                        )  # fmt: skip
                        found.append(made)
    return found


@pytest.fixture
def swept(swept_records, tmp_path):
    """The file of that sweep."""
    return write_store(tmp_path / "sweep.sqlite", swept_records)


def write_store(path: Path, records) -> Path:
    with Store(path) as store:
        for each in records:
            store.put(each)
    return path


@pytest.fixture(scope="session")
def swept_world(tmp_path_factory):
    """A folder with what a plan of a sweep names: cases of the playground and a reference set; nobody may change it."""
    from rulepatch.concepts.make_cases import make_cases, styles_for
    from rulepatch.concepts.segment import load_segmenter
    from rulepatch.concepts.stylize import load_stylizer
    from rulepatch.models.registry import load_model
    from rulepatch.playground.pictures import image_set, training_images
    from rulepatch.playground.scenes import render

    root = tmp_path_factory.mktemp("sweep")
    model = load_model("playground")
    scenes = [render(label, seed=70 + i) for label in ("van", "car", "motorcycle", "pickup") for i in range(10)]
    make_cases(
        image_set(scenes, "road vehicles"),
        root / "cases",
        concepts=["road"],
        styles=styles_for(["road"], ["snow", "leaves"], stylizer="playground", instances=2),
        segmenter=load_segmenter("playground"),
        stylizer=load_stylizer("playground", blend=1.0),
        classes=model.classes,
        progress=False,
    )
    training_images(80, seed=4).write(root / "reference", model.classes)
    return root

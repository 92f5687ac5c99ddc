"""Statistics ahead of time: whoever computes them, an edit finds them, and they are those of one process."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import rulepatch as rp
from rulepatch.data.cache import default_cache
from rulepatch.data.run import Run
from rulepatch.data.stream import ImageStream
from rulepatch.errors import FolderError, SettingError, WorkerError
from rulepatch.methods import Rewrite
from rulepatch.models.registry import load_model
from rulepatch.parallel import statistics as module
from rulepatch.parallel.statistics import gather_statistics, merge_as_tree
from rulepatch.parallel.workers import Lost
from rulepatch.playground.pictures import image_set
from rulepatch.playground.scenes import render

SITES = ["blocks.2.conv", "blocks.3.conv"]
QUIET = Run(progress=False)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Three classes of playground images, of batches that do not come out even."""
    root = tmp_path_factory.mktemp("reference")
    scenes = [render(label, seed=i) for label in ("van", "car", "taxi") for i in range(70)]
    image_set(scenes, "reference").write(root, load_model("playground").classes)
    return root


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Make an empty cache the user's."""

    def use(name):
        monkeypatch.setenv("RULEPATCH_CACHE", str(tmp_path / name))
        return tmp_path / name

    use("cache")
    return use


def contents(folder):
    return {file.name: load_file(file) for file in sorted(folder.iterdir())}


def assert_same(found, whole):
    """The same keys of the cache, samples to the bit, moments to the rounding of sums in float64."""
    assert found.keys() == whole.keys() and whole
    for name, tensors in whole.items():
        for part in ("keys", "priorities", "count", "capacity"):
            assert torch.equal(found[name][part], tensors[part]), part
        assert float((found[name]["moment"] - tensors["moment"]).abs().max() / tensors["moment"].abs().max()) < 1e-10


# the tree


@pytest.mark.parametrize("count", range(1, 8))
def test_a_tree_is_the_same_whichever_part_comes_first(count):
    expected = {1: "0", 2: "(01)", 3: "((01)2)", 4: "((01)(23))", 5: "(((01)(23))4)", 6: "(((01)(23))(45))"}
    expected[7] = "(((01)(23))((45)6))"
    orders = list(itertools.permutations(range(count)))
    for order in orders[:: max(1, len(orders) // 200)]:
        found = merge_as_tree(((i, [str(i)]) for i in order), count, lambda a, b: a.append(f"({a.pop()}{b.pop()})"))
        assert found == [expected[count]]


# workers


class Crew:
    """Workers in this process whose parts come back in an order of their own."""

    def __init__(self, count, order=None, before=lambda: None):
        self.count, self.order, self.before = count, order or range(count), before

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, function, items):
        self.before()
        items = list(items)
        for i in self.order:
            yield items[i], function(items[i])


@pytest.fixture
def crew(monkeypatch):
    def use(*arguments, **options):
        monkeypatch.setattr(module, "Workers", lambda *_, **__: Crew(*arguments, **options))

    return use


def run_with(crew, reference, count, **options):
    crew(count, **options)
    return gather_statistics("playground", reference, SITES, workers=max(2, count), run=QUIET)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_workers_find_what_one_process_finds(count, crew, cache, reference):
    one = cache("one")
    alone = gather_statistics("playground", reference, SITES, run=QUIET)
    many = cache("many")
    found = run_with(crew, reference, count)
    assert_same(contents(many), contents(one))
    assert (alone.processes, found.processes, found.pictures) == (1, count, 210)


@pytest.mark.slow
def test_the_result_is_the_same_bits_whichever_worker_is_first(crew, cache, reference):
    found = []
    for number, order in enumerate([(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 4, 0, 3, 1)]):
        folder = cache(str(number))
        run_with(crew, reference, 5, order=order)
        found.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert found[0] == found[1] == found[2]


@pytest.mark.slow
def test_what_is_in_the_cache_is_not_computed_again(crew, cache, reference):
    first = run_with(crew, reference, 3)
    assert first.found.computed == tuple(SITES)
    again = run_with(crew, reference, 3, before=lambda: pytest.fail("nobody should work"))
    assert again.found.computed == ()
    assert [each["computed"] for each in again.to_json()["sites"]] == [False, False]


def test_workers_that_have_other_pictures_are_refused(crew, cache, reference, tmp_path):
    pictures = image_set([render("van", seed=i) for i in range(20)], "few")
    pictures.write(tmp_path / "few", load_model("playground").classes)
    last = sorted((tmp_path / "few").rglob("*.png"))[-1]
    change = image_set([render("van", seed=99)], "other").pictures[0].source
    with pytest.raises(WorkerError, match=r"same model playground and images .* part 1 of 3"):
        run_with(crew, tmp_path / "few", 3, before=lambda: change.save(last), order=[0, 2, 1])
    assert not cache("cache").exists()


def test_a_part_that_nobody_could_do_is_told_of(crew, cache, reference, monkeypatch):
    monkeypatch.setattr(module, "_work", lambda share: Lost("Killed: no memory"))
    with pytest.raises(WorkerError, match=r"part 1 of 3 .* died \(Killed: no memory\)"):
        run_with(crew, reference, 3)


@pytest.mark.slow
def test_nothing_is_kept_where_pictures_are_unreadable(crew, cache, tmp_path):
    pictures = image_set([render("van", seed=i) for i in range(4)], "few")
    pictures.write(tmp_path / "few", load_model("playground").classes)
    folder = next((tmp_path / "few").iterdir())
    for i in range(250):
        (folder / f"again{i}.png").symlink_to(folder / "00000.png")
    (folder / "00001.png").write_bytes(b"no picture")
    for run in (
        lambda: gather_statistics("playground", tmp_path / "few", SITES, run=QUIET),
        lambda: run_with(crew, tmp_path / "few", 2),
    ):
        with pytest.raises(FolderError, match="1 unreadable one;"):
            run()
    assert not cache("cache").exists()


def test_workers_and_a_group_at_once_are_refused(group, cache, reference):
    found = group(2, lambda rank: gather_statistics("playground", reference, SITES, workers=2, run=QUIET))
    assert all(isinstance(error, SettingError) and "but got both" in str(error) for error in found)


def test_only_the_first_process_of_a_group_tells(group, cache, reference, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # and a group that is there already is used as it is
    first, second = group(2, lambda rank: gather_statistics("playground", reference, SITES, run=QUIET))
    assert second is None and first.processes == 2 and first.found.kept


# edits find them


@pytest.fixture
def edit(monkeypatch, tmp_path):
    """Make an edit in the cache of the moment; whether it read any reference image, and its file."""

    def make(reference, name, **settings):
        streamed = []
        real = ImageStream.of

        def stream(model, images, what=None, **settings):
            streamed.extend([what] * (what == "statistics"))
            return real(model, images, what, **settings)

        monkeypatch.setattr(ImageStream, "of", stream)
        from rulepatch.playground.pictures import exemplar
        from rulepatch.workflows.edit_workflow import Limits, run_edit

        out = tmp_path / f"{name}.safetensors"
        leave_out = settings.pop("leave_out", ())
        given = {"gate": 0.9, "rank": 2, **settings}
        shown = exemplar("van", ground="snow", seed=3)
        run_edit(
            load_model("playground"),
            [shown],
            out=out,
            reference=reference,
            leave_out=leave_out,
            site=given.pop("site", SITES),
            run=Run(seed=given.pop("seed", 0), progress=False),
            how=Rewrite(**given),
            limits=Limits(allow_useless=True),  # what it repairs is not asked here
        )
        return bool(streamed), out

    return make


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the edit repairs 0")
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, {}),
        ({"leave_out": ["van"]}, {"leave_out": ["van"]}),
        ({"seed": 7}, {"run": QUIET.but(seed=7)}),
        ({"architecture": 2, "gate": None, "site": ["blocks.3.conv"]}, {"architecture": 2, "sites": ["blocks.3.conv"]}),
    ],
    ids=str,
)
def test_an_edit_finds_them_and_is_the_same_to_the_bit(settings, told, edit, cache, reference):
    without = cache("without")
    computed, plain = edit(reference, "plain", **settings)
    assert computed
    ahead = cache("ahead")
    gather_statistics("playground", reference, told.pop("sites", SITES), **{"run": QUIET, **told})
    computed, found = edit(reference, "found", **settings)
    assert not computed
    assert found.read_bytes() == plain.read_bytes()
    assert contents(without).keys() == contents(ahead).keys()


@pytest.mark.slow
def test_other_settings_are_not_taken_for_them(edit, cache, reference):
    gather_statistics("playground", reference, SITES, run=QUIET.but(seed=1))
    assert edit(reference, "other")[0]


@pytest.mark.slow
def test_an_edit_finds_what_workers_computed(edit, crew, cache, reference):
    _, plain = edit(reference, "plain")
    cache("many")
    run_with(crew, reference, 3)
    computed, found = edit(reference, "found")
    assert not computed
    for one, other in zip(rp.Edit.load(plain).changes, rp.Edit.load(found).changes, strict=True):
        assert torch.allclose(one.delta(), other.delta(), rtol=1e-4, atol=1e-6 * float(one.delta().abs().max()))


# real processes


def torchrun(folder, *arguments, processes=2, program=("-m", "rulepatch", "statistics"), **environment):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    given = os.environ | {"RULEPATCH_CACHE": str(folder), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(
        [*command, *program, *map(str, arguments)], capture_output=True, text=True, timeout=600, env=given
    )


def arguments_of(reference):
    return ["playground", "--reference", reference, *(word for site in SITES for word in ("--site", site)), "--json"]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_torchrun_finds_what_one_process_finds(processes, cache, reference, tmp_path):
    one = cache("one")
    gather_statistics("playground", reference, SITES, run=QUIET)
    done = torchrun(tmp_path / "many", *arguments_of(reference), processes=processes)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)  # of one process
    assert told["processes"] == processes and all(site["computed"] for site in told["sites"])
    assert_same(contents(tmp_path / "many"), contents(one))
    again = torchrun(tmp_path / "many", *arguments_of(reference), processes=processes)
    assert not any(site["computed"] for site in json.loads(again.stdout)["sites"])


@pytest.mark.slow
@pytest.mark.gpu
def test_torchrun_talks_by_nccl_on_gpus(reference, tmp_path):
    count = torch.cuda.device_count()
    if count < 2:
        pytest.skip("needs two GPUs")
    for name, processes in {"one": 1, "many": 2}.items():
        done = torchrun(tmp_path / name, *arguments_of(reference), "--device", "cuda", processes=processes)
        assert done.returncode == 0, done.stderr
    assert_same(contents(tmp_path / "many"), contents(tmp_path / "one"))


FAILING = """
import os, sys
from rulepatch.cli import main

arguments, second = sys.argv[1:], os.environ["RANK"] == "1"
if second and os.environ["HOW"] == "missing":
    arguments[arguments.index("--reference") + 1] += "-elsewhere"
if second and os.environ["HOW"] == "killed":
    import rulepatch.data.statistics as statistics
    statistics.ImageStream.of = lambda *_, **__: os._exit(9)
main(["statistics", *arguments])
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["missing", "killed"])
def test_a_process_that_fails_or_dies_does_not_leave_the_others_waiting(how, reference, tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    done = torchrun(tmp_path / "cache", *arguments_of(reference), program=[str(tmp_path / "failing.py")], HOW=how)
    assert done.returncode != 0 and done.stdout == ""
    if how == "missing":
        assert "expected a folder of images at" in done.stderr
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
@pytest.mark.parametrize("dask", [None, "local"])
def test_workers_in_processes_find_what_one_process_finds(dask, cache, reference):
    one = cache("one")
    gather_statistics("playground", reference, SITES, run=QUIET)
    many = cache("many")
    found = gather_statistics("playground", Path(reference), SITES, workers=2, dask=dask, run=QUIET)
    assert found.processes == 2 and default_cache().folder == many
    assert_same(contents(many), contents(one))

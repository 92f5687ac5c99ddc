"""An edit leaves nothing behind, whatever happens while it is put in, while it is in, and while it is taken out."""

import asyncio
import copy
import io
import os
import pickle
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from rulepatch.core.edit import Edit
from rulepatch.errors import ModelError, RevertError
from tests.fixtures.edits import edits, kinds, small, state_of

KINDS = list(kinds(small()))
OURS = ("installing.py", "patched_model.py", "interrupts.py")
ATTACKS = int(os.environ.get("RULEPATCH_ATTACKS", "40"))


class Injected(BaseException):
    """Comes from nowhere."""


class Breaking:
    """Raises at one instruction of what puts in and takes out, counted from 0; as a context manager."""

    def __init__(self, moment: int) -> None:
        self.moment, self.passed = moment, 0

    def __call__(self, frame, event, arg):
        if not frame.f_code.co_filename.endswith(OURS) or frame.f_code.co_name == "__del__":  # nothing gets out of that
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event in {"call", "opcode"}:
            self.passed += 1
            if self.passed == self.moment + 1:
                raise Injected
        return self

    def __enter__(self):
        sys.settrace(self)
        return self

    def __exit__(self, *_):
        sys.settrace(None)


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_instruction_is_broken_off(kind):
    """One exception at one instruction of ours: at some of them, at all of them with many attacks."""
    net = small()
    edit, before = edits(net)[kind], state_of(net)
    with Breaking(10**9) as counted, edit.applied(net, any_base=True):
        pass
    assert counted.passed > 500
    for moment in range(0, counted.passed, max(1, counted.passed // ATTACKS)):
        with suppress(Injected), Breaking(moment), edit.applied(net, any_base=True):
            pass  # what ends a generator that is not needed any more gets out of nothing
        assert state_of(net) == before, moment
    with edit.applied(net):  # and it can be put in still
        assert state_of(net) != before
    assert state_of(net) == before


def halved(net: nn.Module) -> None:
    net.half()


def double(net: nn.Module) -> None:
    net.to(torch.float64)


def loaded(net: nn.Module) -> None:
    net.load_state_dict({name: value + 1 for name, value in small().state_dict().items()}, strict=False)


def assigned(net: nn.Module) -> None:
    net.load_state_dict({name: value + 1 for name, value in small().state_dict().items()}, strict=False, assign=True)


def stepped(net: nn.Module) -> None:
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    net(torch.ones(1, 3, 8, 8)).sum().backward()
    optimiser.step()
    net.zero_grad()


def written(net: nn.Module) -> None:
    with torch.no_grad():
        net[0].bias.add_(1)


def written_by_the_back_door(net: nn.Module) -> None:
    for parameter in net.parameters():
        parameter.data.mul_(2)


def other_parameter(net: nn.Module) -> None:
    net[1].weight = nn.Parameter(torch.ones(4))


def other_layer(net: nn.Module) -> None:
    net[3] = nn.Conv2d(4, 6, 1)


def one_more_layer(net: nn.Module) -> None:
    net.append(nn.Identity())


def without_a_layer(net: nn.Module) -> None:
    del net[2]


def parametrised(net: nn.Module) -> None:
    parametrizations.weight_norm(net[0])


def on_meta(net: nn.Module) -> None:
    net.to("meta")


def swapped(net: nn.Module) -> None:
    net[1].bias.data = torch.ones(4)


WAYS = [
    *(halved, double, loaded, assigned, stepped, written, written_by_the_back_door, other_parameter, other_layer),
    *(one_more_layer, without_a_layer, parametrised, on_meta, swapped),
]


@pytest.mark.parametrize("kind", ["weights", "gated", "minimum", "new-class", "all"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_what_the_block_does_to_the_network_is_undone_or_named(way, kind):
    """Never half of it in silence: either all is as before, or the error names what is not."""
    net = small()
    before, state = state_of(net), copy.deepcopy(net.state_dict())
    try:
        with edits(net)[kind].applied(net):
            way(net)
    except RevertError as error:
        said = str(error)
    else:
        said = ""
    left = [name for name, value in net.state_dict().items() if not torch.equal(value, state[name])]
    if way is written_by_the_back_door and not said:  # nothing of the network was the edit's: all of it is the user's
        assert kind in {"gated", "minimum", "new-class"}
        return
    assert said
    if "cannot be undone" not in said:
        assert not left and state_of(net) == before
    assert [type(module) for module in net] == [type(module) for module in small()]
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}


def test_an_error_on_its_way_is_told_beside():
    net = small()
    with pytest.raises(ZeroDivisionError) as error, edits(net)["weights"].applied(net):
        net.half()
        raise ZeroDivisionError
    assert "put back" in error.value.__notes__[0]
    with pytest.raises(RevertError) as error, edits(net)["weights"].applied(net):
        stepped(net)
        raise ZeroDivisionError
    assert isinstance(error.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("kind", KINDS)
def test_edits_taken_out_from_below_another(kind):
    """An error names the one above; both are out as soon as that is."""
    net = small()
    before = state_of(net)
    below, above = edits(net)["weights"], edits(net)[kind]
    first, second = below.applied(net), above.applied(net, any_base=True)
    first.__enter__()
    second.__enter__()
    with pytest.raises(RevertError, match="take that one out") as error:
        first.__exit__(None, None, None)
    assert str(above) in str(error.value)
    first.__exit__(None, None, None)  # nothing more
    second.__exit__(None, None, None)
    assert state_of(net) == before
    with below.applied(net), above.applied(net, any_base=True):
        pass
    assert state_of(net) == before


def test_tasks_that_take_turns():
    net = small()
    before, known = state_of(net), edits(net)

    async def task(edit: Edit, long: int) -> None:
        with edit.applied(net, any_base=True):
            for _ in range(long):
                await asyncio.sleep(0)

    async def both() -> list[BaseException | None]:
        return await asyncio.gather(task(known["weights"], 1), task(known["gated"], 5), return_exceptions=True)

    found = asyncio.run(both())
    assert isinstance(found[0], RevertError) and found[1] is None
    assert state_of(net) == before


@pytest.mark.parametrize("wrapped", [lambda net: net, nn.DataParallel], ids=["plain", "parallel"])
def test_threads_take_turns(wrapped):
    net = small()
    before, known = state_of(net), list(edits(net).values())
    picture = torch.ones(1, 3, 8, 8)
    expected = [edit.apply(net)(picture) for edit in known]

    def work(index: int) -> bool:
        with torch.no_grad(), known[index % len(known)].applied(wrapped(net)):
            return torch.equal(net(picture), expected[index % len(known)])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(80)))
    assert state_of(net) == before


def test_another_thread_may_end_what_one_began():
    """A generator that is forgotten is closed by whichever thread finds it."""
    net = small()
    before, edit = state_of(net), edits(net)["all"]

    def pictures() -> Iterator[int]:
        with edit.applied(net):
            yield 1

    unfinished = pictures()
    thread = threading.Thread(target=next, args=(unfinished,))
    thread.start()
    thread.join()
    assert state_of(net) != before
    unfinished.close()
    assert state_of(net) == before
    with edit.applied(net):  # nobody's turn
        pass


def test_forgotten_and_late():
    net = small()
    before, edit = state_of(net), edits(net)["all"]
    edit.applied(net).__enter__()
    assert state_of(net) == before
    with pytest.raises(KeyError), ExitStack() as stack:
        for each in edits(net).values():
            if not each.beside_weights:
                stack.enter_context(each.applied(net, any_base=True))
        raise KeyError
    assert state_of(net) == before
    context = edit.applied(net)
    with context, pytest.raises(RevertError, match="already"), context:
        pass
    assert state_of(net) == before


def test_copies_made_inside_are_their_own():
    net = small()
    before, edit = state_of(net), edits(net)["all"]
    picture = torch.ones(1, 3, 8, 8)
    with edit.applied(net):
        copied, expected = copy.deepcopy(net), net(picture)
        stream = io.BytesIO()
        torch.save(net, stream)
        pickled = pickle.dumps(net.state_dict())
    assert state_of(net) == before and pickled
    assert torch.equal(copied(picture), expected)
    stream.seek(0)


@pytest.mark.parametrize("kind", ["weights", "gated", "soft", "minimum", "dense"])
def test_tied_weights_flags_and_gradients(kind):
    net = small()
    net.append(nn.Linear(5, 6))
    net.append(nn.Linear(6, 5))
    net[9].weight = net[7].weight  # a second layer on the same memory
    net[0].weight.requires_grad_(False)
    before, edit = state_of(net), edits(net)[kind]
    with edit.applied(net):
        net(torch.ones(1, 3, 8, 8)).sum()
        for parameter in net.parameters():
            parameter.requires_grad_(not parameter.requires_grad)
    assert state_of(net) == before and net[0].weight.requires_grad


def test_a_module_that_copies_to_itself_is_not_edited_for_good():
    class Alone(nn.Sequential):
        def __deepcopy__(self, memo):
            return self

    net = Alone(*small())
    before = state_of(net)
    with pytest.raises(ModelError, match="copied"):
        edits(net)["weights"].apply(net)
    assert state_of(net) == before


def test_a_setter_that_raises():
    class Proud(nn.Conv2d):
        stubborn = False

        def train(self, mode=True):
            if type(self).stubborn:
                raise MemoryError
            return super().train(mode)

    net = small()
    net[3] = Proud(4, 6, 1).eval()
    before, edit = state_of(net), edits(net)["all"]
    Proud.stubborn = True
    with pytest.raises(MemoryError), edit.applied(net):
        pass
    assert state_of(net) == before

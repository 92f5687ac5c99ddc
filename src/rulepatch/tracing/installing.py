"""Putting tensors and layers into a network for a while, in the place of its own, and taking them out to the last bit.

What is undone is noted before it is changed, and it is undone by putting everything back as it was noted: that can be
broken off at any instruction and done again. Signals wait meanwhile (`rulepatch.interrupts`).
"""

import threading
import weakref
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rulepatch.errors import RevertError, warn
from rulepatch.interrupts import deliver, hold, release, unbroken

__all__ = ["Installation", "Noted"]

WAIT, PATIENCE = 0.1, 20.0
"""Seconds between two looks whether another thread's changes are out, and until it is said that they are waited for."""

_INSIDE: list["weakref.ref[Installation]"] = []
"""What is in networks now, in the order in which it was put in."""

_TURN = threading.Condition()


class Noted:
    """What some modules were: their types, children, parameters and buffers, and the memory that these lay in.

    Nothing is copied: what is written into a parameter in place cannot be undone, but it is found.

    Args:
        modules: each with its dotted path.

    Attributes:
        mended: paths of what had been changed and was put back.
        lost: paths of parameters that were written into.

    Examples:
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU())
        >>> noted, weight = Noted(net.named_modules()), net[0].weight.tolist()
        >>> net[1] = net[0].half()
        >>> noted.put_back()
        >>> net[0].weight.tolist() == weight, sorted(noted.mended), noted.lost
        (True, ['0.weight', '1'], set())
    """

    def __init__(self, modules: Iterable[tuple[str, nn.Module]]) -> None:
        self.mended: set[str] = set()
        self.lost: set[str] = set()
        whole = [(path, each) for path, each in modules if not isinstance(each, torch.jit.ScriptModule)]
        self._kinds = [(path, each, type(each)) for path, each in whole]
        self._tables = [
            (path, table, dict(table)) for path, each in whole for table in (each._modules, each._parameters)
        ]
        self._buffers = [(path, each._buffers, dict(each._buffers)) for path, each in whole]
        self._tensors = {
            id(tensor): (_joined(path, name), tensor, tensor.data, _writes(tensor))
            for path, _, was in (*self._tables, *self._buffers)
            for name, tensor in was.items()
            if isinstance(tensor, Tensor) and not is_lazy(tensor)
        }

    def put_back(self, weights: Mapping[int, Tensor] | None = None, layers: Iterable[nn.Module] = ()) -> None:
        """Make everything as it was. If it is broken off, it has to be called again.

        Contents of buffers are left as they are, for passes write there, unless something else was changed, too.

        Args:
            weights: what was put into parameters on purpose, by the parameters' `id`.
            layers: modules that were put in on purpose.
        """
        weights, placed = weights or {}, {id(layer) for layer in layers}
        for path, module, kind in self._kinds:
            if type(module) is not kind:
                self.mended.add(path or kind.__name__)
                with suppress(TypeError):
                    module.__class__ = kind
        for path, table, was in self._tables:
            changed = [name for name in {**was, **table} if table.get(name, _NOTHING) is not was.get(name, _NOTHING)]
            self.mended |= {_joined(path, name) for name in changed if id(table.get(name)) not in placed}
            if changed:
                _refill(table, was)
        for key, (path, tensor, data, writes) in self._tensors.items():
            if isinstance(tensor, nn.Parameter):
                if _writes(tensor) != writes:
                    (self.mended if key in weights else self.lost).add(path)
                if _place(tensor) != _place(data):
                    if key not in weights or _place(tensor) != _place(weights[key]):
                        self.mended.add(path)
                    tensor.data = data
        if self.mended or self.lost:
            for _, table, was in self._buffers:
                _refill(table, was)
            for _, tensor, data, _ in self._tensors.values():
                if _place(tensor) != _place(data):
                    tensor.data = data


_NOTHING = object()


def _refill(table: dict[str, Any], was: Mapping[str, Any]) -> None:
    if list(table) != list(was) or any(table[name] is not each for name, each in was.items()):
        table.clear()  # for the order of its entries, too
        table.update(was)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """How a tensor lies in memory, and where, unless that is not known, as of tensors that are made of others."""
    kind = (tensor.dtype, tensor.device, tuple(tensor.shape))
    try:
        return (*kind, tensor.data_ptr(), tensor.stride())
    except (RuntimeError, NotImplementedError):
        return kind


def _writes(tensor: Tensor) -> int | None:
    """How often a tensor was written into; None if nobody counts."""
    return None if tensor.is_inference() else tensor._version


class Installation:
    """Context manager: tensors and layers in the place of a network's own, until they are taken out, whatever happens.

    Threads take turns at a network. What was put in later has to be taken out first; else it is an error, and both are
    out as soon as the later one is.

    Args:
        module: the network.
        weights: new contents of parameters, by their dotted paths.
        layers: modules by the dotted paths of those whose place they take.
        whole: look after the whole network, not only after what is changed, and say what the block did to it.
    """

    def __init__(
        self, module: nn.Module, weights: Mapping[str, Tensor], layers: Mapping[str, nn.Module], *, whole: bool = False
    ) -> None:
        self._module, self._weights, self._placed, self._whole = module, weights, dict(layers), whole
        self._sound = {path: weight.clone() for path, weight in weights.items()} if whole else {}

    _own: Mapping[int, Tensor] = {}  # noqa: RUF012
    _noted: Noted | None = None
    _told: tuple[set[str], set[str]] = (set(), set())
    _below: tuple["Installation", ...] = ()
    _thread = 0

    def __str__(self) -> str:
        return f"the edit of {', '.join((*self._weights, *self._placed)) or 'nothing'}"

    def prepare(self) -> Any:
        """Get ready when it is this one's turn; the network has no other thread's changes in it.

        Returns:
            What the `with` statement gives.
        """
        return self

    def switch(self, *, on: bool) -> None:
        """Do to the network what neither tensors nor layers do, or undo it, whether it was done or not."""

    def put_in(self) -> None:
        """Change the network."""
        owners = {path.rpartition(".")[0] for path in (*self._weights, *self._placed)}
        some = ((path, self._module.get_submodule(path)) for path in owners)
        self._noted = Noted(self._module.named_modules() if self._whole else some)
        self.switch(on=True)
        parameters = [(self._module.get_parameter(path), weight) for path, weight in self._weights.items()]
        self._own = {id(parameter): weight for parameter, weight in parameters}
        for parameter, weight in parameters:
            parameter.data = weight
        for path, layer in self._placed.items():
            parent, _, name = path.rpartition(".")
            children = self._module.get_submodule(parent)._modules
            children[name] = layer.train(children[name].training)  # type: ignore[union-attr]

    def install(self) -> None:
        """Change the network for good."""
        self.put_in()
        self._noted = None

    def take_out(self) -> None:
        """Make the network as it was; nothing if it is."""
        if self._noted is None:
            return
        for path, sound in self._sound.items():
            if not torch.equal(self._weights[path], sound):  # through .data or NumPy, which nobody counts
                self._noted.mended.add(path)
        self._noted.put_back(self._own, self._placed.values())
        self.switch(on=False)
        self._told = self._noted.mended, self._noted.lost
        self._noted = None

    @unbroken
    def __enter__(self) -> Any:
        if self._noted is not None:
            raise RevertError(f"expected {self} outside of the network but it is in it already; leave that block first")
        try:
            hold(self)
            self._take_turn()
            given = self.prepare()
            self.put_in()
            deliver()
        except BaseException:
            self._leave()
            raise
        return given

    @unbroken
    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._leave()
        try:
            deliver()
        except BaseException as interruption:
            self._tell(interruption)
            raise
        self._tell(error)

    @unbroken
    def __del__(self) -> None:
        if self._noted is not None:  # what was to take it out was broken off before its first line
            with suppress(RevertError):
                self._leave()
            self._tell(None)

    def _leave(self) -> None:
        """Take everything out, and once more if that was broken off."""
        try:
            self._end()
        except RevertError:
            raise
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        later = self._later()
        if later is not None:
            later._below = (*later._below, self)
            raise RevertError(
                f"expected edits to be taken out in the reverse order of being put in but {later} was put in after "
                f"{self} and is in the network still; take that one out: then both are"
            )
        self.take_out()
        while self._below:
            self._below[-1].take_out()
            self._below[-1]._done()
            self._below = self._below[:-1]
        self._done()

    def _done(self) -> None:
        with _TURN:
            _INSIDE[:] = [each for each in _INSIDE if each() is not None and each() is not self]
            _TURN.notify_all()
        release(self)

    def _take_turn(self) -> None:
        waited = 0.0
        self._thread = threading.get_ident()
        with _TURN:
            while any(each._thread != self._thread and each._meets(self) for each in _inside()):
                _TURN.wait(WAIT)
                deliver()
                if waited < PATIENCE <= waited + WAIT:
                    warn(
                        "another thread has an edit in this network, which is waited for; if that thread waits for "
                        "this one, neither ends: give each thread a copy (Edit.apply)"
                    )
                waited += WAIT
            _INSIDE.append(weakref.ref(self))

    def _meets(self, other: "Installation") -> bool:
        """Whether the two are about one network, or about networks that share weights."""
        if self._module is other._module:
            return True
        mine, its = ({id(each) for each in one._module.parameters()} for one in (self, other))
        return not mine.isdisjoint(its)

    def _later(self) -> "Installation | None":
        """What was put into the network after this, and is in it still; the last of these."""
        there = _inside()
        after = there[there.index(self) + 1 :] if self in there and self._noted is not None else []
        return next((each for each in reversed(after) if each._noted is not None and each._meets(self)), None)

    def _tell(self, error: BaseException | None) -> None:
        """Say what the block did to the network, if anything: by an error, or beside one that is on its way."""
        mended, lost = self._told
        self._told = (set(), set())
        if not mended and not lost:
            return
        told = f"{_few(mended)} changed, which was undone" if mended else ""
        told += " and " if mended and lost else ""
        told += f"{_few(lost)} written into, which cannot be undone" if lost else ""
        advice = "load its weights again, and change a copy (Edit.apply)" if lost else "change a copy (Edit.apply)"
        sentence = f"expected the network to be left alone while {self} was in it but {told}; {advice}"
        if error is not None and (not lost or not isinstance(error, Exception)):
            error.add_note(sentence)
            return
        raise RevertError(sentence) from error


def _inside() -> list[Installation]:
    return [found for each in tuple(_INSIDE) if (found := each()) is not None]


def _few(paths: set[str]) -> str:
    first = sorted(paths)[:3]
    more = f" and {len(paths) - len(first)} more" if len(paths) > len(first) else ""
    return f"{', '.join(first)}{more} {'was' if len(paths) == 1 else 'were'}"

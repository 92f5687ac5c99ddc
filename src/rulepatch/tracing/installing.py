"""Putting tensors and layers into a network for a while, in the place of its own, and taking them out to the last bit.

What is undone is noted before it is changed, and it is undone by putting everything back as it was noted: that can be
broken off at any instruction and done again. Signals wait meanwhile (`rulepatch.interrupts`).
"""

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rulepatch.errors import NotFiniteError, RevertError, warn
from rulepatch.interrupts import deliver, hold, release, unbroken

__all__ = ["Installation", "Noted", "finite"]

WAIT, PATIENCE = 0.1, 20.0
"""Seconds between two looks whether another thread's changes are out, and until it is said that they are waited for."""

_INSIDE: list["weakref.ref[_Standing]"] = []
"""What is in networks now, in the order in which it was put in."""


class Noted:
    """What some modules were: their types, children, parameters and buffers, and the memory that these lay in.

    Nothing is copied: what is written into a parameter in place cannot be undone, but it is found.

    Args:
        modules: each with its dotted path.

    Examples:
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU())
        >>> noted, weight = Noted(net.named_modules()), net[0].weight.tolist()
        >>> net[1] = net[0].half()
        >>> noted.changes()
        (['0.weight', '1'], [])
        >>> noted.put_back()
        >>> net[0].weight.tolist() == weight, noted.changes()
        (True, ([], []))
    """

    def __init__(self, modules: Iterable[tuple[str, nn.Module]]) -> None:
        whole = [(path, each) for path, each in modules if not isinstance(each, torch.jit.ScriptModule)]
        self._kinds = [(path, each, type(each)) for path, each in whole]
        self._tables = [
            (path, each, name, dict(getattr(each, name)))
            for path, each in whole
            for name in ("_modules", "_parameters", "_buffers")
        ]
        self._tensors = {
            id(tensor): (_joined(path, name), tensor, tensor.data, _writes(tensor))
            for path, _, _, was in self._tables
            for name, tensor in was.items()
            if isinstance(tensor, Tensor) and not is_lazy(tensor)
        }

    def changes(
        self, weights: Mapping[int, Tensor] | None = None, layers: Iterable[nn.Module] = ()
    ) -> tuple[list[str], list[str]]:
        """What is not as it was, of all but buffers, where passes may write.

        Args:
            weights: what was put into parameters on purpose, by the parameters' `id`.
            layers: modules that were put in on purpose.

        Returns:
            Paths of what `put_back` can undo, and of parameters that were written into, which nothing can.
        """
        weights, placed, lost = weights or {}, {id(layer) for layer in layers}, []
        mended = [path or kind.__name__ for path, module, kind in self._kinds if type(module) is not kind]
        for path, module, attribute, was in self._tables:
            table = getattr(module, attribute) if attribute != "_buffers" else was
            changed = [name for name in {**was, **table} if table.get(name, _NOTHING) is not was.get(name, _NOTHING)]
            mended += [_joined(path, name) for name in changed if id(table.get(name)) not in placed]
        for key, (path, tensor, data, writes) in self._tensors.items():
            if isinstance(tensor, nn.Parameter):
                written = _writes(tensor) != writes
                places = _place(data), _place(weights.get(key, data))
                if _place(tensor) not in places or (written and key in weights):
                    mended.append(path)
                elif written:
                    lost.append(path)
        return sorted(set(mended)), lost

    def put_back(self, *, buffers: bool = True) -> None:
        """Make everything as it was. If it is broken off, it has to be called again.

        Args:
            buffers: put them back, too.
        """
        for _, module, kind in self._kinds:
            if type(module) is not kind:
                with suppress(TypeError):
                    module.__class__ = kind
        for _, module, attribute, was in self._tables:
            table = getattr(module, attribute) if buffers or attribute != "_buffers" else was
            if list(table) != list(was) or any(table[name] is not each for name, each in was.items()):
                table.clear()  # for the order of its entries, too
                table.update(was)
        for _, tensor, data, _ in self._tensors.values():
            if (buffers or isinstance(tensor, nn.Parameter)) and _place(tensor) != _place(data):
                tensor.data = data


_NOTHING = object()


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


def finite(edited: Tensor, what: str) -> Tensor:
    """A tensor that is about to be put into a network.

    Raises:
        NotFiniteError: it holds NaN or infinity; its type may have no number as large as what the change asks for.
    """
    if not edited.is_meta and not edited.isfinite().all():
        raise NotFiniteError(
            f"expected finite numbers for {what} with the edit in it but got NaN or infinity in {edited.dtype}; take "
            "less strength, or a wider type of numbers"
        )
    return edited


class _Standing:
    """What stands in a network now, with all that it takes to undo it, also when the block has been forgotten.

    Args:
        name: of what is put in, for messages.
        module: the network.
    """

    noted: Noted | None = None
    ready = False

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name, self.module, self.thread = name, module, threading.get_ident()
        self.weights: dict[int, Tensor] = {}
        self.layers: list[nn.Module] = []
        self.sound: list[tuple[str, Tensor, Tensor]] = []
        self.switch_off: Callable[[], None] = lambda: None
        self.found: tuple[list[str], list[str]] | None = None
        self.below: list[_Standing] = []
        self.gone = threading.Event()

    def take_turn(self) -> None:
        """Wait until no other thread has anything in the network, and let none put anything in after that.

        Without a lock, which could stay locked: those that came earlier are waited for, in their order.
        """
        waited = 0.0
        _INSIDE.append(weakref.ref(self))
        while before := self._in_the_way():
            before.gone.wait(WAIT)
            deliver()
            waited += WAIT
            if waited - WAIT < PATIENCE <= waited:
                warn(
                    "another thread has an edit in this network, which is waited for; if that thread waits for this "
                    "one, neither ends: give each thread a copy (Edit.apply)"
                )
        self.ready = True

    def _in_the_way(self) -> "_Standing | None":
        """What came before this, of other threads, unless this thread has its turn already."""
        there = _inside()
        earlier = [each for each in there[: there.index(self)] if each.meets(self)]
        if any(each.ready and each.thread == self.thread for each in earlier):
            return None
        return next((each for each in earlier if each.thread != self.thread), None)

    def meets(self, other: "_Standing") -> bool:
        """Whether the two are about one network, or about networks that share weights."""
        if self.module is other.module:
            return True
        mine, its = ({id(each) for each in one.module.parameters()} for one in (self, other))
        return not mine.isdisjoint(its)

    def take_out(self) -> None:
        """Make the network as it was; nothing if it is."""
        if self.noted is None:
            return
        if self.found is None:  # before anything is put back
            mended, lost = self.noted.changes(self.weights, self.layers)
            hidden = [path for path, weight, sound in self.sound if not torch.equal(weight, sound)]
            if set(hidden) - set(mended):
                lost.append("perhaps others, through .data or NumPy, which nobody counts")
            self.found = sorted({*mended, *hidden}), lost
        self.noted.put_back(buffers=self.found != ([], []))
        self.switch_off()
        self.noted = None

    def leave(self) -> None:
        """Take everything out. If it is broken off, it has to be called again.

        Raises:
            RevertError: something was put in later and is in the network still.
        """
        there = _inside()
        after = there[there.index(self) + 1 :] if self in there and self.noted is not None else []
        for later in reversed(after):
            if later.noted is not None and later.meets(self):
                later.below.append(self)
                raise RevertError(
                    f"expected edits to be taken out in the reverse order of being put in but {later.name} was put in "
                    f"after {self.name} and is in the network still; take that one out: then both are"
                )
        self._end()

    def _end(self) -> None:
        self.take_out()
        while self.below:
            self.below[-1]._end()
            self.below.pop()
        for each in tuple(_INSIDE):
            if each() is None or each() is self:
                with suppress(ValueError):  # another thread may have been faster
                    _INSIDE.remove(each)
        self.gone.set()

    def tell(self, error: BaseException | None) -> None:
        """Say what the block did to the network, if anything: by an error, or beside one that is on its way."""
        mended, lost = self.found or ([], [])
        if not mended and not lost:
            return
        told = [f"put back: {_few(mended)}"] if mended else []
        told += [f"written into, which cannot be undone: {_few(lost)}"] if lost else []
        advice = "load its weights again, and change a copy (Edit.apply)" if lost else "change a copy (Edit.apply)"
        sentence = (
            f"expected the network to be left alone while {self.name} was in it but it was changed "
            f"({'; '.join(told)}); {advice}"
        )
        if error is not None and (not lost or not isinstance(error, Exception)):
            error.add_note(sentence)
            return
        raise RevertError(sentence) from error

    @unbroken
    def __del__(self) -> None:
        if self.noted is not None:  # what was to take it out was broken off before its first line, or forgotten
            with suppress(RevertError):
                self.leave()
            self.tell(None)


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

    _standing: _Standing | None = None

    def __str__(self) -> str:
        return f"the edit of {', '.join((*self._weights, *self._placed))}"

    def prepare(self) -> Any:
        """Get ready, when it is this one's turn and the network has no other thread's changes in it.

        Returns:
            What the `with` statement gives.
        """
        return self

    def switch_on(self) -> None:
        """Do to the network what neither tensors nor layers do."""

    def off_switch(self) -> Callable[[], None]:
        """What undoes `switch_on`, whether that was done or not; it knows nothing of this object."""
        return lambda: None

    def install(self) -> None:
        """Change the network for good."""
        standing = _Standing(str(self), self._module)
        self._put_in(standing)
        standing.noted = None

    def _put_in(self, standing: _Standing) -> None:
        parameters = {path: self._module.get_parameter(path) for path in self._weights}
        owners = {path.rpartition(".")[0] for path in (*self._weights, *self._placed)}
        some = [(path, self._module.get_submodule(path)) for path in owners]
        standing.weights = {id(parameter): self._weights[path] for path, parameter in parameters.items()}
        standing.layers = list(self._placed.values())
        standing.switch_off = self.off_switch()
        if self._whole:
            standing.sound = [(path, weight, weight.clone()) for path, weight in self._weights.items()]
        standing.noted = Noted(self._module.named_modules() if self._whole else some)
        self.switch_on()
        for path, weight in self._weights.items():
            parameters[path].data = weight
        for path, layer in self._placed.items():
            parent, _, name = path.rpartition(".")
            children = self._module.get_submodule(parent)._modules
            children[name] = layer.train(children[name].training)  # type: ignore[union-attr]

    @unbroken
    def __enter__(self) -> Any:
        if self._standing is not None:
            raise RevertError(f"expected {self} outside of the network but it is in it already; leave that block first")
        try:
            hold(self)
            self._standing = _Standing("another edit", self._module)
            self._standing.take_turn()
            given = self.prepare()
            self._standing.name = str(self)
            self._put_in(self._standing)
            deliver()
        except BaseException:
            try:
                self._leave(None)
            finally:
                release(self)
            raise
        return given

    @unbroken
    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            self._leave(error)
        except RevertError:
            raise
        except BaseException:
            self._leave(error)
            raise
        finally:
            release(self)
            deliver()

    def _leave(self, error: BaseException | None) -> None:
        """Take everything out and say what the block did to the network; nothing more holds what stood there."""
        standing = self._standing
        if standing is None:
            return
        try:
            standing.leave()
        except RevertError:  # it leaves with what stands above it
            self._standing = None
            raise
        self._standing = None
        standing.tell(error)


def _inside() -> list[_Standing]:
    return [found for each in tuple(_INSIDE) if (found := each()) is not None]


def _few(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(paths[:3]) + more

"""Weights into a network and out of it again: which tensors of a checkpoint are the network's, or why they are not."""

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import _remove_duplicate_names
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rulepatch.errors import WeightsError, reason_of, warn
from rulepatch.files import check_writable, write_tensors
from rulepatch.models.checkpoints import Checkpoint, Entry, read_checkpoint
from rulepatch.models.fitting import Fit, fits
from rulepatch.text import plural

__all__ = ["Translate", "load_weights", "refuse_unsound", "save_weights"]

Translate = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]

_SECOND = {
    *("ema", "swa", "avg", "average", "averaged", "shadow"),
    *("teacher", "momentum", "target", "key", "k"),
    *("best", "last", "old", "prev", "previous", "init", "initial"),
}
"""Words in names of weights that are an average, a copy or another state of those that were trained."""

_WORD = re.compile("[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

_COUNTERS = {
    *("num_batches_tracked", "total_ops", "total_params"),
    *("n_averaged", "num_updates", "decay", "ema_decay", "initted"),
    *("epoch", "step", "steps", "global_step"),
}
"""Names of single numbers that training, averaging or a profiler leaves among weights; no output depends on them."""

_TRAINING = re.compile(r"loss|criterion|metric|accuracy|optim|teacher|momentum|queue|(?<![a-z])(ema|swa)(?![a-z])")
"""Names of modules that are used in training only."""

_COMPUTED = re.compile(r"(^|\.)(relative_position_index|relative_coords_table|attn_mask|position_ids)$")
"""Names of buffers that constructors compute, which some versions of a library save and others do not."""


def load_weights(module: nn.Module, path: Path, translate: Translate | None = None) -> None:
    """Load a state dict from a local file into a network.

    The network's names may stand anywhere in the file and in any wrappers; see `fits`. Where several sets of weights
    fit, those that were trained are taken, not an average or another state of them, and a warning names the others.

    Args:
        module: the network; unchanged if anything is wrong.
        path: safetensors, or what `torch.save` wrote; `FILE::KEY` for the weights under one key of it.
        translate: makes the network's state dict out of that of a file with other names.

    Raises:
        WeightsError: the file is missing or damaged, its tensors do not fit the network, or it cannot be told which do.

    Examples:
        >>> file = Path(getfixture("tmp_path")) / "last.ckpt"
        >>> net, trained = nn.Linear(2, 1), nn.Linear(2, 1)
        >>> state = {f"model.{name}": tensor for name, tensor in trained.state_dict().items()}
        >>> torch.save({"state_dict": state, "epoch": 3}, file)
        >>> load_weights(net, file)
        >>> torch.equal(net.weight, trained.weight)
        True
    """
    checkpoint, network = read_checkpoint(path), _Network(module)
    found = network.fits(checkpoint.entries)
    fitting = [fit for fit in found if not network.objection(fit, checkpoint)]
    objections = [network.objection(found[0], checkpoint)]
    if not fitting and translate is not None:
        fitting, objections = _translated(network, checkpoint, translate)
    if not fitting:
        raise WeightsError(objections[0])
    chosen = _chosen(fitting, checkpoint, network.name)
    network.load(chosen, checkpoint)
    _say_what_is_left(chosen, fitting, checkpoint, network.name)


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a network's state dict to a safetensors file atomically.

    Args:
        module: the network.
        path: the file.

    Raises:
        OutputError: it cannot be written there.
        WeightsError: the state holds what is no tensor, such as the weights of a quantised layer, or NaN or infinity.
    """
    state = module.state_dict()
    others = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise WeightsError(
            f"expected a state dict of tensors but {_such_as(others)} of {type(module).__name__} is none, and "
            "safetensors holds nothing else; save the network's state_dict() with torch.save"
        )
    refuse_unsound(module, type(module).__name__)
    check_writable(path, size=sum(tensor.nbytes for tensor in state.values()))
    left_out = {name: kept for kept, names in _remove_duplicate_names(state).items() for name in names}
    write_tensors(path, {name: tensor for name, tensor in state.items() if name not in left_out}, left_out)


def refuse_unsound(module: nn.Module, name: str) -> None:
    """Make sure that weights are there and finite.

    Args:
        module: the network.
        name: of it or of its file, for the message.

    Raises:
        WeightsError: a tensor is on the meta device, or holds NaN or infinity.
    """
    for key, tensor in module.state_dict().items():
        if not isinstance(tensor, Tensor) or is_lazy(tensor):
            continue
        if tensor.is_meta:
            raise WeightsError(
                f"expected weights but {key} of {name} has none, on the meta device; give a file of them"
            )
        if (tensor.is_floating_point() or tensor.is_complex()) and not tensor.isfinite().all():
            raise WeightsError(f"expected finite weights but {key} of {name} holds NaN or infinity; get a sound copy")


class _Network:
    """A network that weights are wanted for.

    Attributes:
        module: the network.
        name: of its class.
        own: its state by name.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module, self.name = module, type(module).__name__
        self.own: Mapping[str, Any] = module.state_dict(keep_vars=True)
        self._buffers = dict(module.named_buffers(remove_duplicate=False))

    def fits(self, entries: Sequence[Entry]) -> list[Fit]:
        """Places where the network may begin, the best first; at least one, perhaps without any pair."""
        found = fits(self.own, entries)
        if found and 2 * len(found[0].pairs) >= len(self.own):
            return found
        taken = {entry.name for entry in found[0].pairs.values()} if found else set()
        others = [entry for entry in entries if entry.name not in taken]
        return [Fit("", found[0].pairs if found else {}, others, [])]

    def objection(self, fit: Fit, checkpoint: Checkpoint) -> str:
        """Why a fit is not the network's weights, in one sentence; nothing if it is."""
        path = checkpoint.path
        missing = [key for key in self.own if key not in fit.pairs and not self._optional(key, fit)]
        others = fit.beside if missing else _other_layers(fit)
        unknown = [entry for entry in (*fit.extra, *others) if not self._harmless(entry, fit.place)]
        if missing or unknown:
            shards = "; it is one of several files, name their .index.json" if _is_shard(path) else ""
            return (
                f"expected the weights of {self.name} but {path} lacks {len(missing)} of its tensors"
                f"{_examples(missing)} and has {len(unknown)} others{_examples(entry.name for entry in unknown)}; "
                f"it holds {checkpoint.contents}{shards}; name the right architecture or file"
            )
        misshapen = [
            (key, tuple(self.own[key].shape), tuple(entry.value.shape))
            for key, entry in fit.pairs.items()
            if _has_shape(self.own[key]) and _has_shape(entry.value) and not _alike(self.own[key], entry.value)
        ]
        if misshapen:
            return _misshapen(misshapen, path)
        for key, entry in fit.pairs.items():
            if reason := _unusable(self.own[key], entry):
                return f"expected {key} as {reason[0]} but {path} has {reason[1]}; {reason[2]}"
        return ""

    def load(self, fit: Fit, checkpoint: Checkpoint) -> None:
        """Pour the tensors of a fit into the network."""
        state = OrderedDict((key, _dense(entry.value)) for key, entry in fit.pairs.items())
        vars(state)["_metadata"] = getattr(self.own, "_metadata", None)  # versions of the layers, as some ask for them
        assign = any(isinstance(value, Tensor) and value.is_meta for value in self.own.values())  # nowhere to copy to
        if assign:
            for key, value in state.items():
                state[key] = value.to(self.own[key].dtype) if isinstance(value, Tensor) else value
        try:
            self.module.load_state_dict(state, strict=False, assign=assign)
        except Exception as error:  # of modules that read their state themselves
            raise WeightsError(
                f"expected weights that {self.name} takes but it refused those of {checkpoint.path} "
                f"({reason_of(error)}); name the right architecture or file"
            ) from None

    def _optional(self, key: str, fit: Fit) -> bool:
        """Whether a file may lack a name: of a counter, of what is computed, or of a tensor that has two names."""
        value = self.own[key]
        if _is_batch_count(key) or key.endswith("_extra_state"):
            return True
        if not _has_shape(value):
            return False
        given = [self.own[other] for other in fit.pairs if _has_shape(self.own[other])]
        tied = any(value is other or (value.data_ptr() == other.data_ptr() != 0) for other in given)
        return tied or (key in self._buffers and bool(_COMPUTED.search(key)))

    def _harmless(self, entry: Entry, place: str) -> bool:
        """Whether a network may lack a name of the file: of a counter, or of what it computes itself."""
        if not isinstance(entry.value, Tensor) or (_is_counter(entry.name) and entry.value.numel() == 1):
            return True
        name = entry.name.removeprefix(f"{place}.")
        buffer = self._buffers.get(name)
        return bool(_COMPUTED.search(name)) and (
            buffer is None or (buffer.shape == entry.value.shape and bool((buffer == entry.value).all()))
        )


def _translated(network: _Network, checkpoint: Checkpoint, translate: Translate) -> tuple[list[Fit], list[str]]:
    """What a translation makes of each mapping that may hold the network by other names: what fits, and objections."""
    fitting: list[Fit] = []
    objections: list[str] = []
    for mapping, places in _mappings(checkpoint, at_least=len(network.own) // 2):
        for place in places:
            start = f"{place}." if place else ""
            within = [
                Entry(entry.name.removeprefix(start), "", entry.value)
                for entry in checkpoint.entries
                if entry.place == mapping and entry.name.startswith(start) and isinstance(entry.value, Tensor)
            ]
            try:
                translated = translate({entry.name: _sound(entry, checkpoint.path) for entry in within})
            except WeightsError as refusal:
                objections.append(str(refusal))
                continue
            [fit, *_] = network.fits([Entry(name, "", tensor) for name, tensor in translated.items()])
            if objection := network.objection(fit, checkpoint):
                objections.append(objection)
            else:
                fitting.append(Fit(place, fit.pairs, fit.extra, ()))
                break
    return fitting, objections


def _mappings(checkpoint: Checkpoint, at_least: int) -> Iterator[tuple[str, Iterable[str]]]:
    """Mappings of many tensors, each with the places in it where a network may begin, the most likely first."""
    names: dict[str, list[str]] = {}
    for entry in checkpoint.entries:
        if isinstance(entry.value, Tensor):
            names.setdefault(entry.place, []).append(entry.name)
    large = {mapping: found for mapping, found in names.items() if len(found) >= at_least}
    for mapping, found in (large or names or {"": []}).items():
        counts = Counter(name[: dot.start()] for name in found for dot in re.finditer(r"\.", name))
        inside = [place for place, count in counts.items() if count >= at_least and f"{place}.".startswith(mapping)]
        whole = [place for place in inside if counts[place] == len(found)]  # what all names begin with is a wrapper
        yield mapping, dict.fromkeys([*whole[-1:], mapping, *inside])


def _chosen(fitting: Sequence[Fit], checkpoint: Checkpoint, name: str) -> Fit:
    """The weights that were trained, of several sets of them."""
    words = {fit.place: {word.lower() for word in _WORD.findall(fit.place)} for fit in fitting}
    shared = set.intersection(*words.values()) if len(words) > 1 else set()
    second = {place: bool((found - shared) & _SECOND) for place, found in words.items()}
    different: list[Fit] = []
    for fit in sorted(fitting, key=lambda fit: second[fit.place]):
        if not any(_same(fit, other) for other in different):
            different.append(fit)
    first, *others = different
    places = [f"{checkpoint.path}::{fit.place}" for fit in different[:6]]
    if others and (second[first.place] or not second[others[0].place]):
        raise WeightsError(
            f"expected one set of weights for {name} but {len(different)} in the file fit; name one of "
            f"{', '.join(places)}"
        )
    if others:
        warn(
            f"expected one set of weights for {name} but {len(different)} in the file fit: "
            f"took {first.place or 'those at its top'} and not {', '.join(fit.place for fit in others[:5])}; "
            f"to take another, name it as {places[1]}"
        )
    return first


def _same(one: Fit, other: Fit) -> bool:
    return one.pairs.keys() == other.pairs.keys() and all(
        _equal(entry.value, other.pairs[key].value) for key, entry in one.pairs.items()
    )


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or torch.equal(_dense(one), _dense(other))
    return one is other


def _say_what_is_left(fit: Fit, fitting: Sequence[Fit], checkpoint: Checkpoint, name: str) -> None:
    """Tell of tensors that the network does not have though they stood among or beside its own."""
    tensors = [entry.name for entry in fit.extra if isinstance(entry.value, Tensor)]
    counters = [key for key in tensors if _is_counter(key) and not _is_batch_count(key)]
    if counters:
        warn(
            f"expected only tensors of {name} but {checkpoint.path} has {plural(len(counters), 'counter')} among them"
            f"{_examples(counters)}; no output depends on them, and they were left out"
        )
    others = {entry.name for other in fitting for entry in (*other.pairs.values(), *other.extra)}
    beside = [entry.name for entry in fit.beside if isinstance(entry.value, Tensor) and entry.name not in others]
    beside = [key for key in beside if not _is_counter(key) and not _TRAINING.search(key.lower())]
    if beside:
        warn(
            f"expected nothing beside {name} but {checkpoint.path} has {plural(len(beside), 'more tensor')} there"
            f"{_examples(beside)}; they were left out: if its output depends on them, give a network that has them"
        )


def _unusable(own: Any, entry: Entry) -> tuple[str, str, str] | None:
    """What was expected of a tensor, what it is, and what to do, if its numbers cannot be taken as they are."""
    value = entry.value
    if not isinstance(own, Tensor) or not isinstance(value, Tensor):
        same = isinstance(own, Tensor) == isinstance(value, Tensor)
        kinds = ["a tensor" if isinstance(each, Tensor) else f"a {type(each).__name__}" for each in (own, value)]
        return None if same else (kinds[0], kinds[1], "name the right architecture or file")
    if value.is_meta and value.numel():
        return "numbers", "none, only their shape (a tensor on the meta device)", "save the network when it has weights"
    if value.is_quantized:
        return "plain numbers", f"quantised ones ({value.dtype})", "save the weights before they are quantised"
    if value.is_nested:
        return "a tensor", "a nested one", "save plain tensors"
    if _kind(value) != _kind(own) and not _is_batch_count(entry.name):
        kinds = [f"{_kind(each)} ({str(each.dtype).removeprefix('torch.')})" for each in (own, value)]
        return kinds[0], kinds[1], "one is never turned into the other: save the weights as the network holds them"
    return None


def _other_layers(fit: Fit) -> list[Entry]:
    """What is learned before or after a network that is one part of a sequence: its output depends on that."""
    sequence, _, number = fit.place.rpartition(".")
    if not number.isdigit():
        return []
    layer = re.compile(rf"{re.escape(sequence)}{sequence and '[.]'}[0-9]+[.](.*[.])?(weight|bias)")
    return [entry for entry in fit.beside if layer.fullmatch(entry.name)]


def _sound(entry: Entry, path: Path) -> Tensor:
    """A tensor of a file whose names are to be translated, if its numbers can be taken as they are."""
    learned = entry.name.rpartition(".")[2] in {"weight", "bias"}
    stand_in = torch.empty(0) if learned else torch.empty(0, dtype=getattr(entry.value, "dtype", None))
    if reason := _unusable(stand_in, entry):
        raise WeightsError(f"expected {entry.name} as {reason[0]} but {path} has {reason[1]}; {reason[2]}")
    return _dense(entry.value)


def _misshapen(found: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]], path: Path) -> str:
    """What to say of shapes that differ; perhaps only in the rows of a head, one for each class."""
    key, wanted, got = found[0]
    more = f" (and {len(found) - 1} more, such as {found[1][0]})" if len(found) > 1 else ""
    rows = {(own[:1], other[:1]) for _, own, other in found}
    advice = "name the right architecture or file"
    if len(rows) == 1 and all(own and own[1:] == other[1:] and set(own[2:]) <= {1} for _, own, other in found):
        advice = (
            f"if it was trained for {got[0]} classes, not {wanted[0]}, make the network so in a model file (kwargs, "
            f"such as num_classes = {got[0]}) and name its classes there, or {advice}"
        )
    return f"expected {key} of shape {wanted} but {path} has {got}{more}; {advice}"


def _dense(value: Any) -> Any:
    return value.to_dense() if isinstance(value, Tensor) and value.layout != torch.strided else value


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.is_complex():
        return "complex numbers"
    return "real numbers" if value.is_floating_point() else "whole numbers"


def _alike(own: Tensor, value: Tensor) -> bool:
    return own.shape == value.shape or (own.ndim == 0 and value.shape == (1,))  # as torch 0.3 wrote single numbers


def _has_shape(value: Any) -> bool:
    return isinstance(value, Tensor) and not is_lazy(value) and not value.is_nested


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] in _COUNTERS


def _is_batch_count(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _is_shard(path: Path) -> bool:
    return bool(re.search(r"-\d+-of-\d+\.", path.name))


def _examples(names: Iterable[str]) -> str:
    names = list(names)
    return f" (such as {_such_as(names)})" if names else ""


def _such_as(names: Sequence[str]) -> str:
    return ", ".join(name if len(name) <= 80 else f"…{name[-79:]}" for name in names[:3])

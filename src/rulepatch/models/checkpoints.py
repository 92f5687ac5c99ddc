"""Reading local checkpoints of any origin. Only tensors and plain data are unpickled."""

import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from rulepatch.errors import WeightsError
from rulepatch.forms import checked
from rulepatch.models.foreign_files import what_else
from rulepatch.reading import is_regular, opened, read_json
from rulepatch.tensors import MOST_BYTES, read_tensors
from rulepatch.text import plural

__all__ = ["Checkpoint", "Entry", "read_checkpoint", "read_state"]

_DEEPEST = 12
"""Mappings within mappings: no training script nests deeper, and a file may hold itself."""

_INERT = (
    "argparse.Namespace",
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in
      ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")),
    *(f"builtins.{name}" for name in ("list", "dict", "int", "float")),  # what a defaultdict begins with
    "torch.torch_version.TorchVersion",
)  # fmt: skip
"""Classes that training scripts save beside weights. Their objects are replaced by empty placeholders."""

_ALONE = threading.Lock()
"""Lock of torch's process-wide list of safe globals."""

_GLOBAL = re.compile(r"GLOBAL (?:__builtin__\.)?([\w.]+)")
"""Pattern of the refused global in messages of the restricted unpickler."""


@dataclass(frozen=True)
class Entry:
    """Something with a name in a checkpoint.

    Attributes:
        name: all keys from the top of the file, joined by dots, such as `state_dict.model.fc.weight`.
        place: those of the mapping that holds it, such as `state_dict`.
        value: a tensor, or something else that has no names in it.
    """

    name: str
    place: str
    value: Any


@dataclass(frozen=True)
class Checkpoint:
    """Content of a file.

    Attributes:
        path: the file.
        entries: all that has a name, in the file's order.
        contents: the keys at its top, as words.
    """

    path: Path
    entries: Sequence[Entry]
    contents: str


def read_checkpoint(source: Path) -> Checkpoint:
    """Read a local file of weights: safetensors, what `torch.save` wrote, or the index of a set of such files.

    Args:
        source: the file; `FILE::KEY` for what stands under one key in it, such as `last.pth.tar::state_dict_ema`.

    Returns:
        Its content, on the CPU.

    Raises:
        WeightsError: the file is missing, damaged or of another format, holds other objects, or lacks the key.

    Examples:
        >>> file = Path(getfixture("tmp_path")) / "last.pth.tar"
        >>> torch.save({"epoch": 3, "state_dict": {"fc.bias": torch.zeros(2)}}, file)
        >>> checkpoint = read_checkpoint(file)
        >>> checkpoint.contents, [entry.name for entry in checkpoint.entries]
        ('epoch, state_dict (1 tensor)', ['epoch', 'state_dict.fc.bias'])
    """
    path, key = _file_and_key(source)
    loaded = _load(path)
    if not isinstance(loaded, Mapping | list | tuple):
        raise WeightsError(
            f"expected a state dict of tensors in {path} but it holds one {type(loaded).__name__}; "
            "save model.state_dict()"
        )
    entries = list(_entries(loaded, "", 0))
    contents = _contents(loaded, entries)
    if key:
        within = [entry for entry in entries if f"{entry.name}.".startswith(f"{key}.")]
        if not within:
            raise WeightsError(f"expected {key} in {path} but it holds {contents}; name one of these after ::")
        entries = within
    return Checkpoint(path, entries, contents)


def read_state(source: Path) -> dict[str, Tensor]:
    """Read a state dict from a local file, for those who know its names.

    Args:
        source: a file, or `FILE::KEY`.

    Returns:
        The tensors of the mapping that holds most of them (the first of several), by name, on the CPU.

    Raises:
        WeightsError: see `read_checkpoint`; or there is no tensor with a name.

    Examples:
        >>> file = Path(getfixture("tmp_path")) / "w.pth"
        >>> torch.save({"net": {"0.bias": torch.zeros(2)}, "accuracy": 0.9}, file)
        >>> list(read_state(file))
        ['0.bias']
    """
    checkpoint = read_checkpoint(source)
    places: dict[str, dict[str, Tensor]] = {}
    for entry in checkpoint.entries:
        if isinstance(entry.value, Tensor):
            name = entry.name.removeprefix(f"{entry.place}.") if entry.place else entry.name
            places.setdefault(entry.place, {})[name] = entry.value
    if not places:
        raise WeightsError(
            f"expected a state dict of tensors in {checkpoint.path} but it holds {checkpoint.contents}; "
            "save model.state_dict()"
        )
    return max(places.values(), key=len)


def _file_and_key(source: Path) -> tuple[Path, str]:
    """A file, and what is asked for within it; a file whose own name has `::` in it is meant first."""
    file, separator, key = str(source).rpartition("::")
    path, key = (Path(file), key) if separator and not source.exists() else (source, "")
    if path.is_dir():
        raise WeightsError(
            f"expected weights at {path} but there is no such file, it is a folder; check the path, or name "
            f"{_files_of(path)}"
        )
    if not is_regular(path):
        raise WeightsError(f"expected weights at {path} but there is no such file; check the path")
    return path, key


def _files_of(folder: Path) -> str:
    if any(folder.glob("*.distcp")):
        return "the file that `python -m torch.distributed.checkpoint.format_utils dcp_to_torch` makes of it"
    endings = (".index.json", ".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")
    names = sorted(file.name for file in folder.iterdir() if file.name.endswith(endings))
    names.sort(key=lambda name: not name.endswith(".index.json"))  # which names all others
    return f"a file in it ({', '.join(names[:3])})" if names else "a file"


def _load(path: Path) -> Any:
    """The object that a file holds."""
    if path.name.endswith(".index.json"):
        return _load_shards(path)
    if found := what_else(path):
        raise WeightsError(f"expected a state dict of tensors but {path} is {found}")
    try:
        with opened(path, WeightsError, most=MOST_BYTES) as (file, _):
            begins_like_safetensors = file.read(9).endswith(b"{")
        if begins_like_safetensors or path.suffix == ".safetensors":
            return read_tensors(path, WeightsError, what="a readable weights file", most=MOST_BYTES)[0]
        with _ALONE, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of kinds of tensors, and of pickles that another version wrote
            allowed = torch.serialization.get_safe_globals()  # by the program that we are part of, and they stay so
            with torch.serialization.safe_globals([each for each in _harmless() if each not in allowed]):
                return torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(
            f"expected a readable weights file but {path} is damaged ({reason}); get a sound copy"
        ) from None
    except Exception as error:  # the unpickler's refusals have no common type
        raise WeightsError(_refusal(path, error)) from None


def _refusal(path: Path, error: Exception) -> str:
    """Why the restricted unpickler gave up, in a sentence."""
    text = str(error)
    if "Unsupported operand" in text:
        return (
            f"expected a file in torch.save's own protocol but {path} was pickled with another; save it again without "
            "pickle_protocol"
        )
    what = "a whole model, or something beside its weights"
    if refused := _GLOBAL.search(text):
        what = f"{refused[1]}: {what}"
    elif "DTensor" in text:
        what = "DTensor: shards of tensors that lie on several devices"
    return (
        f"expected a state dict of tensors but {path} holds other objects ({what}), which are never loaded, as they "
        "can run code; open it where it was made, if you trust it, and save model.state_dict() alone"
    )


def _load_shards(path: Path) -> dict[str, Any]:
    """The tensors of all files that an index names, as transformers and accelerate write it."""
    index = read_json(path, WeightsError, what="an index of weights")
    if not isinstance(index, dict) or "weight_map" not in index:
        raise WeightsError(f"expected an index of weights but {path} has no weight_map; name another file")
    checked(index["weight_map"], {str: str}, f"weight_map in {path}", WeightsError, advice="get a sound copy")
    found: dict[str, Any] = {}
    for name in sorted(set(index["weight_map"].values())):
        shard = path.parent / name
        if shard.parent != path.parent or not is_regular(shard):
            raise WeightsError(f"expected the files that {path} names but {name} is not beside it; get them all")
        found |= _load(shard)
    return found


@cache
def _harmless() -> list[Any]:
    """Globals that may be unpickled beside what torch itself allows: numbers and arrays of NumPy, and what is inert.

    They have the names under which every version of Python and NumPy saves them, in the form that torch 2.5 knows.
    """

    def named(path: str, made: Any) -> Any:
        made.__module__, _, made.__name__ = path.rpartition(".")
        made.__qualname__ = made.__name__
        return made

    def calling(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: function(*args)

    inert = [named(path, type("Inert", (), {"__init__": lambda self, *args: None})) for path in _INERT]
    collections = [named("collections.defaultdict", lambda *args: {}), named("collections.deque", lambda *args: [])]
    makers: dict[str, Any] = {"scalar": np.float64(0).__reduce__()[0], "_reconstruct": np.zeros(0).__reduce__()[0]}
    numpy = [
        named(f"numpy.{core}.multiarray.{name}", calling(maker))
        for core in ("core", "_core")
        for name, maker in makers.items()
    ]
    codes = np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?SU"  # neither objects nor records
    return [*inert, *collections, *numpy, np.ndarray, np.dtype, *{type(np.dtype(code)) for code in codes}]


def _entries(value: Any, place: str, depth: int) -> Iterator[Entry]:
    """Everything with a name; the keys of mappings are names, and so are the numbers of mappings in a list."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, item in items:
        name = f"{place}.{key}" if place else str(key)
        if _has_names(item) and not name.endswith("_extra_state"):
            if depth < _DEEPEST:
                yield from _entries(item, name, depth + 1)
        else:
            yield Entry(name, place, _tensor(item))


def _has_names(value: Any) -> TypeGuard[Mapping[Any, Any] | Sequence[Any]]:
    in_list = isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value)
    return in_list or isinstance(value, Mapping)


def _tensor(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(np.ascontiguousarray(value.astype(value.dtype.newbyteorder("="))).reshape(value.shape))
    return value


def _contents(loaded: Any, entries: Sequence[Entry]) -> str:
    """Short description of the top level of a file."""
    here = [entry.name for entry in entries if not entry.place and isinstance(entry.value, Tensor)]
    words = [f"{plural(len(here), 'tensor')} ({', '.join(here[:3])}{', …' if len(here) > 3 else ''})"] if here else []
    items, at_top = loaded.items() if isinstance(loaded, Mapping) else enumerate(loaded), set(here)
    others = [(f"{key}", value) for key, value in items if str(key) not in at_top]
    for key, value in others[:8]:
        below = (entry.value for entry in entries if entry.name.startswith(f"{key}.")) if _has_names(value) else ()
        count = sum(isinstance(each, Tensor) for each in below)
        words.append(f"{key} ({plural(count, 'tensor')})" if count else key)
    more = f" and {len(others) - 8} more" if len(others) > 8 else ""
    return ", ".join(word if len(word) <= 120 else f"{word[:119]}…" for word in words) + more or "nothing"

"""Suggestions for unknown model names."""

import ast
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path

from rulepatch.errors import ModelError
from rulepatch.images import SUFFIXES
from rulepatch.reading import read_text

__all__ = ["advice"]

WEIGHTS = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar", ".th", ".pkl", ".npz", ".h5", ".msgpack")
"""Endings of files that hold weights."""

PROGRAMS = (".onnx", ".pt2", ".tflite", ".engine", ".mlmodel", ".torchscript")
"""Endings of files that hold a network made to run, not to be changed."""

ALIASES = {
    "huggingface": "hf",
    "hf-hub": "hf",
    "transformers": "hf",
    "clip": "open_clip",
    "openclip": "open_clip",
    "places": "places365",
    "tv": "torchvision",
    "pytorch": "torchvision",
    "torch": "torchvision",
}
"""Other names of sources."""

OF_FILES = {"python", "toml"}
"""Sources that a file's ending stands for, not a prefix."""


def advice(name: str, sources: Iterable[str]) -> str:
    """Advice for a name of no known source, as the end of a sentence.

    Libraries are asked for the names of their models only here, as that takes seconds.

    Args:
        name: as it was given.
        sources: prefixes of all sources.

    Returns:
        Words such as "did you mean torchvision/resnet18 or timm/resnet18?".

    Examples:
        >>> advice("net.pth", ["timm"])
        'that is a weights file: name an architecture and give it with --weights net.pth'
        >>> advice("torchvison/resnet18", ["timm", "torchvision"])
        'did you mean torchvision/resnet18?'
    """
    found = _of_path(name) or _did_you_mean(_meant(name, list(sources)))
    return found or "give one of these, such as torchvision/resnet50 or timm/resnet50"


def _did_you_mean(names: Iterable[str]) -> str:
    found = list(dict.fromkeys(names))
    return f"did you mean {' or '.join(', '.join(found).rsplit(', ', 1))}?" if found else ""


def _of_path(name: str) -> str:
    """Advice for a name that is a path; empty otherwise."""
    path = Path(name).expanduser()
    word, ending = shlex.quote(name), path.suffix.lower()
    if re.match(r"\w+://", name):
        return "that is an address, and nothing is downloaded from there: get the file, then give it with --weights"
    if name and path.is_dir():
        return _of_folder(path)
    if ending in WEIGHTS:
        return f"that is a weights file: name an architecture and give it with --weights {word}"
    if ending in PROGRAMS:
        return "that is an exported network, whose layers cannot be edited: name its architecture and its weights"
    if ending in SUFFIXES and path.is_file():
        return "that is an image: name the model first"
    if ending == ".py":
        if not path.is_file():
            return "there is no such file; check the path"
        functions = _functions(path)
        return _did_you_mean(f"{word}:{each}" for each in functions) or "write a function in it that returns the model"
    return ""


def _of_folder(folder: Path) -> str:
    if (folder / "config.json").is_file():
        return f"that is a folder of Hugging Face: did you mean hf/{shlex.quote(str(folder))}?"
    if files := sorted(folder.glob("*.toml")):
        return f"that is a folder: {_did_you_mean(shlex.quote(str(file)) for file in files)}"
    return "that is a folder without a model (config.json or a model file FILE.toml): name a file in it"


def _functions(path: Path) -> list[str]:
    """Functions of a Python file that can be called without arguments; the file is not run."""
    try:
        tree = ast.parse(read_text(path, ModelError))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return []
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and not node.name.startswith("_")
        and len(node.args.posonlyargs) + len(node.args.args) == len(node.args.defaults)
        and None not in node.args.kw_defaults
    ]


def _meant(name: str, sources: list[str]) -> Iterator[str]:
    """Names that a person may have meant, the likeliest first."""
    prefix, separator, rest = _parted(name)
    file = Path(f"{prefix}.py")
    source = _near_source(prefix, sources)
    if source == "playground":
        yield source
    elif source is not None and rest:
        spelt = _in_libraries(rest, [source], nearest=False) if source in LIBRARIES else []
        yield from spelt or [f"{source}/{rest}"]
    elif separator == ":" and file.is_file():
        yield f"{file}:{rest}"
    elif separator == "/":  # as Hugging Face calls models: OWNER/NAME
        yield f"hf/{name}"
        yield from _in_libraries(rest, LIBRARIES, nearest=False)
    else:
        yield from _in_libraries(name, LIBRARIES, nearest=False) or _in_libraries(name, LIBRARIES, nearest=True)


def _parted(name: str) -> tuple[str, str, str]:
    """A name's first part, what ends it, and the rest, as in torchvision.models.resnet18 or timm:resnet18."""
    found = re.fullmatch(r"([\w-]+)(\.models\.|[/\\:. ])(.+)", name)
    return (found[1], found[2], found[3]) if found else (name, "", "")


def _near_source(prefix: str, sources: list[str]) -> str | None:
    known = {each.replace("_", "-"): each for each in sources if each not in OF_FILES} | ALIASES
    found = get_close_matches(prefix.lower().replace("_", "-"), known, n=1, cutoff=0.75)
    return known[found[0]] if found else None


def _torchvision() -> list[str]:
    from torchvision import models

    return models.list_models(module=models)


def _timm() -> list[str]:
    import timm

    return timm.list_models()


LIBRARIES: dict[str, Callable[[], list[str]]] = {"torchvision": _torchvision, "timm": _timm}
"""Names of the models of libraries that list them."""


def _in_libraries(name: str, libraries: Iterable[str], *, nearest: bool) -> list[str]:
    """A name in each library's spelling, ignoring case and punctuation; or the closest match."""
    architecture, dot, tag = name.partition(".")
    found = []
    for library in libraries:
        known: dict[str, list[str]] = {}
        for each in LIBRARIES[library]():
            known.setdefault(_plain(each), []).append(each)
        close = get_close_matches(_plain(architecture), known, n=1, cutoff=0.6) if nearest else [_plain(architecture)]
        spelt = [each for key in close for each in known.get(key, [])]
        same = [each for each in spelt if each == architecture.lower().replace("-", "_")]  # regnet_x_16gf, not 1_6gf
        ending = f"{dot}{tag}" if library == "timm" else ""  # timm alone names weights after a dot
        found += [f"{library}/{each}{ending}" for each in same or spelt]
    return found


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())

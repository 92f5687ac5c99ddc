"""The door for tensors: safetensors files, copied into memory of our own before anything is checked or done with them.

A memory map of the file would change when the file is written over, and end the process when it is cut.
"""

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from rulepatch.errors import RulepatchError
from rulepatch.forms import checked
from rulepatch.reading import opened, parse_json

if TYPE_CHECKING:
    import torch

__all__ = ["read_tensors"]

MOST_HEADER = 64 << 20
"""Bytes; a network of ten thousand tensors has one."""

MOST_BYTES = 1 << 40

_ENTRY = {"dtype": str, "shape": [int], "data_offsets": [int]}


@cache
def _dtypes() -> Mapping[str, "torch.dtype"]:
    import torch

    names = {
        "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "F16": "float16",
        "BF16": "bfloat16", "U32": "uint32", "I32": "int32", "F32": "float32", "U64": "uint64", "I64": "int64",
        "F64": "float64", "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    }  # fmt: skip
    return {name: getattr(torch, dtype) for name, dtype in names.items()}


def read_tensors(
    path: Path, error: type[RulepatchError], *, what: str = "tensors", most: int = MOST_BYTES
) -> tuple[dict[str, "torch.Tensor"], dict[str, str]]:
    """Read a safetensors file, once, into memory that is the tensors' own.

    Args:
        path: a regular file.
        error: what to raise.
        what: is expected, for the message.
        most: bytes that it may have.

    Returns:
        The tensors by name, on the CPU, and the metadata.

    Raises:
        RulepatchError: the file is missing, no such file, too large or damaged; of the given class.

    Examples:
        >>> import torch
        >>> from rulepatch.errors import WeightsError
        >>> from safetensors.torch import save_file
        >>> file = Path(getfixture("tmp_path")) / "w.safetensors"
        >>> save_file({"bias": torch.ones(2)}, file, metadata={"format": "pt"})
        >>> read_tensors(file, WeightsError)
        ({'bias': tensor([1., 1.])}, {'format': 'pt'})
    """

    def damaged(reason: str) -> NoReturn:
        raise error(f"expected {what} at {path} but it is damaged or of another kind ({reason}); get a sound copy")

    with opened(path, error, most=most, what=what) as (file, size):
        length = int.from_bytes(_bytes(file, 8), "little")
        if not 0 < length <= min(MOST_HEADER, size - 8):
            damaged("no header of safetensors")
        header = parse_json(_bytes(file, length), f"the header of {path}", error, free=True, most=MOST_HEADER)
        header = checked(header, {"__metadata__?": {str: str}, ...: object}, f"the header of {path}", error)
        metadata = header.pop("__metadata__", {})
        checked(header, {str: _ENTRY}, f"the header of {path}", error, advice="get a sound copy")
        end, found = 0, {}
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            if entry["dtype"] not in _dtypes():
                damaged(f"{name} is of the type {entry['dtype'][:20]}, which is not read")
            dtype, shape = _dtypes()[entry["dtype"]], entry["shape"]
            if min(shape, default=0) < 0 or entry["data_offsets"] != [end, end + math.prod(shape) * dtype.itemsize]:
                damaged(f"{name} does not lie where its shape says")
            end = entry["data_offsets"][1]
            if 8 + length + end > size:
                damaged(f"it ends within {name}")
            found[name] = _tensor(file, shape, dtype)
            if found[name] is None:
                damaged(f"it ends within {name}")
        if 8 + length + end != size:
            damaged("it is longer than its tensors")
    return found, metadata


def _bytes(file: BinaryIO, count: int) -> bytes:
    return file.read(count) or b""


def _tensor(file: BinaryIO, shape: list[int], dtype: "torch.dtype") -> Any:
    """The next tensor of a file; None if the file ends before it."""
    import torch

    content = torch.empty(math.prod(shape) * dtype.itemsize, dtype=torch.uint8)
    taken = file.readinto(content.numpy())  # type: ignore[attr-defined]
    return content.view(dtype).reshape(shape) if taken == len(content) else None

"""Reads weights in the format of TensorFlow.js, `model.json` and the binary shards beside it, with json and numpy.

`model.json` holds `weightsManifest`, a list of groups; the shards of a group, one after the other, are the bytes of its
tensors, one after the other, in little-endian order. Convolutions are (y, x, c_in, c_out), depthwise ones
(y, x, c, multiplier).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rulepatch.errors import WeightsError
from rulepatch.forms import checked
from rulepatch.reading import is_regular, read_bytes, read_json

__all__ = ["TfjsModel", "filters", "read_tfjs"]

_DTYPES = {"float32": "<f4", "int32": "<i4", "bool": "|u1", "uint8": "|u1", "uint16": "<u2", "float16": "<f2"}

MOST_BYTES = 1 << 30
"""Of a shard; they are written with four mebibytes."""

MOST_AXES = 8

_TENSOR: dict[Any, Any] = {
    "name": str, "shape": [int], "dtype": str, ...: object,
    "quantization?": ({"dtype": str, ...: object}, None),
}  # fmt: skip
_NODE: dict[Any, Any] = {
    "name": str, "op?": str, "attr?": {"epsilon?": {"f": float, ...: object}, ...: object}, ...: object,
}  # fmt: skip
_PACKING: dict[Any, Any] = {"scale": float, "min": float, ...: object}
_FORM: dict[Any, Any] = {
    "weightsManifest": [{"paths": [str], "weights": [_TENSOR], ...: object}],
    "modelTopology?": ({"node?": [_NODE], ...: object}, None),
    ...: object,
}


@dataclass(frozen=True, eq=False)
class TfjsModel:
    """A model as its files say it.

    Attributes:
        tensors: by name, in their own layout; quantised ones as float32.
        nodes: of the graph, by name, as they stand in `model.json`; empty where it holds weights alone.
        origin: the folder, for messages.
    """

    tensors: Mapping[str, NDArray[Any]]
    nodes: Mapping[str, Mapping[str, Any]]
    origin: Path


def read_tfjs(folder: Path) -> TfjsModel:
    """Read a folder of `model.json` and its shards.

    Args:
        folder: of the files.

    Returns:
        Every tensor of the manifest, and the graph.

    Raises:
        WeightsError: a file that is missing, no such format, or shards that are not as long as their tensors.
    """
    path = folder / "model.json"
    if not path.is_file():
        raise WeightsError(f"expected {path} but there is no such file; give a folder in the format of TensorFlow.js")
    described = read_json(path, WeightsError, what="a model.json with a weightsManifest")
    checked(described, _FORM, str(path), WeightsError, advice="get a sound copy")
    shards = [name for group in described["weightsManifest"] for name in group["paths"]]
    if len(set(shards)) < len(shards):
        raise WeightsError(f"expected every shard once in {path} but got some twice; get a sound copy")
    tensors: dict[str, NDArray[Any]] = {}
    for group in described["weightsManifest"]:
        content = b"".join(_shard(folder, name) for name in group["paths"])
        for name, array in _unpacked(content, group["weights"], folder):
            if name in tensors:
                raise WeightsError(f"expected every tensor once in {path} but got {name!r} twice; get a sound copy")
            tensors[name] = array
    listed = (described.get("modelTopology") or {}).get("node", [])
    nodes = {node["name"]: node for node in listed}
    if len(nodes) < len(listed):
        raise WeightsError(f"expected every node once in {path} but got some twice; get a sound copy")
    return TfjsModel(tensors, nodes, folder)


def filters(array: NDArray[Any], *, depthwise: bool = False) -> Tensor:
    """Turn the weights of a convolution into PyTorch's order.

    Args:
        array: (y, x, c_in, c_out), or (y, x, c, multiplier) of a depthwise one.
        depthwise: whether it is.

    Returns:
        (c_out, c_in, y, x), or (c · multiplier, 1, y, x), float32.

    Examples:
        >>> filters(np.zeros((3, 5, 2, 7))).shape, filters(np.zeros((3, 5, 2, 1)), depthwise=True).shape
        (torch.Size([7, 2, 3, 5]), torch.Size([2, 1, 3, 5]))
    """
    turned = array.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
    if depthwise:
        turned = turned.reshape(-1, 1, *array.shape[:2])
    return torch.from_numpy(np.ascontiguousarray(turned, dtype=np.float32))


def _shard(folder: Path, name: str) -> bytes:
    if Path(name).name != name:
        raise WeightsError(f"expected shards beside model.json but {folder} names {name!r}; get a sound copy")
    if not is_regular(folder / name):
        raise WeightsError(f"expected the shard {folder / name} but it is not there; get all files of it")
    return read_bytes(folder / name, WeightsError, most=MOST_BYTES)


def _unpacked(content: bytes, entries: list[Mapping[str, Any]], folder: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """The tensors of a group out of its bytes, by name."""
    offset = 0
    for entry in entries:
        name, shape = entry["name"], tuple(entry["shape"])
        packing = entry.get("quantization")
        stored = packing["dtype"] if packing else entry["dtype"]
        if stored not in _DTYPES or min(shape, default=1) < 1 or len(shape) > MOST_AXES:
            raise WeightsError(f"expected numbers in {folder} but {name} is {stored} {shape}; it cannot be read")
        dtype = np.dtype(_DTYPES[stored])
        size = math.prod(shape)
        if offset + size * dtype.itemsize > len(content):
            raise WeightsError(
                f"expected shards of at least {offset + size * dtype.itemsize} bytes but {folder} has {len(content)} "
                f"and ends within {name}; get a sound copy"
            )
        array = np.frombuffer(content, dtype, count=size, offset=offset).reshape(shape)
        offset += size * dtype.itemsize
        if packing and stored != "float16":
            checked(packing, _PACKING, f"quantization of {name} in {folder}", WeightsError, advice="get a sound copy")
            with np.errstate(over="ignore", invalid="ignore"):
                array = array * np.float32(packing["scale"]) + np.float32(packing["min"])
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise WeightsError(f"expected finite weights in {folder} but {name} holds others; get a sound copy")
        yield name, array.astype(np.float32) if array.dtype.kind == "f" else array
    if offset != len(content):
        raise WeightsError(
            f"expected shards of {offset} bytes, as the manifest says, but {folder} has {len(content)}; "
            "get the files of one version"
        )

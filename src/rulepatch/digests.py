"""Digests of contents."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["digest_of_bytes", "digest_of_json", "digest_of_state", "digest_of_tensors"]


def digest_of_bytes(content: bytes) -> str:
    """Return the SHA-256 of some bytes, in hexadecimal.

    Examples:
        >>> digest_of_bytes(b"")[:12]
        'e3b0c44298fc'
    """
    return hashlib.sha256(content).hexdigest()


def digest_of_json(value: object) -> str:
    """Return the digest of a JSON value; the order of keys does not matter.

    Examples:
        >>> digest_of_json({"a": 1, "b": 2}) == digest_of_json({"b": 2, "a": 1})
        True
    """
    return digest_of_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def digest_of_tensors(tensors: "Mapping[str, Tensor]") -> str:
    """Return the digest of named tensors: names, types, shapes and every bit of their contents.

    The order of the names, the device and the strides do not matter.

    Examples:
        >>> import torch
        >>> a, b = torch.zeros(2, 3), torch.zeros(3, 2)
        >>> digest_of_tensors({"w": a}) == digest_of_tensors({"w": a.clone()})
        True
        >>> digest_of_tensors({"w": a}) == digest_of_tensors({"w": b})
        False
    """
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name!r}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def digest_of_state(state: Mapping[str, Any]) -> str:
    """Return the digest of a network's state dict, in which other things than tensors may lie.

    Where all are plain tensors it is `digest_of_tensors`. Packed weights of quantised layers, sparse tensors and
    tensors made of others count by the tensors in them, values of Python (`get_extra_state`) by what they are, objects
    of any other kind by their type alone.

    Examples:
        >>> import torch
        >>> a = torch.zeros(2)
        >>> digest_of_state({"w": a}) == digest_of_tensors({"w": a})
        True
        >>> digest_of_state({"w": a, "extra": {"version": 3}}) == digest_of_state({"w": a, "extra": {"version": 4}})
        False
    """
    return digest_of_tensors(dict(part for name in state for part in _parts(name, state[name])))


def _parts(name: str, value: Any) -> Iterator[tuple[str, "Tensor"]]:
    """Yield plain tensors that identify a value."""
    import torch

    if isinstance(value, torch.Tensor):
        if value.is_quantized:
            value = {"integers": value.int_repr(), "numbers": value.dequantize()}
        elif hasattr(value, "__tensor_flatten__"):
            value = {inner: getattr(value, inner) for inner in value.__tensor_flatten__()[0]}
        else:
            yield name, value.to_dense() if value.layout != torch.strided else value
            return
    elif isinstance(value, list | tuple | set | frozenset):
        ordered = value if isinstance(value, list | tuple) else sorted(value, key=repr)
        value = {str(index): each for index, each in enumerate(ordered)}
    if isinstance(value, Mapping):
        yield f"{name}: {len(value)} in {type(value).__name__}", torch.empty(0)
        for key, each in value.items():
            yield from _parts(f"{name}.{key}", each)
        return
    plain = value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype)
    yield f"{name} = {value!r}" if plain else f"{name}: {type(value).__name__}", torch.empty(0)

"""Digests of contents."""

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["digest_of_bytes", "digest_of_json", "digest_of_tensors"]


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

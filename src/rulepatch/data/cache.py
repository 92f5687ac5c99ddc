"""Tensors kept on disk between runs, keyed by everything that determines them."""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from rulepatch.digests import digest_of_json, digest_of_tensors
from rulepatch.errors import OutputError
from rulepatch.files import make_folder, write_tensors
from rulepatch.tensors import read_tensors

__all__ = ["Cache", "default_cache"]

MOST_BYTES = 8 << 30
"""Of an entry: the second moment of 30,000 channels."""


class Cache:
    """A folder of safetensors files, each named by the digest of its key.

    Args:
        folder: where to keep them; made when first needed.

    Examples:
        >>> import torch
        >>> cache = Cache(Path(getfixture("tmp_path")))
        >>> cache.get({"site": "a"}) is None
        True
        >>> cache.put({"site": "a"}, {"x": torch.ones(1)})
        True
        >>> cache.get({"site": "a"})
        {'x': tensor([1.])}
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: Mapping[str, object]) -> dict[str, Tensor] | None:
        """Read the tensors of a key.

        Returns:
            The tensors, or None if there are none, or they are damaged or those of another key.
        """
        try:
            tensors, told = read_tensors(self._file(key), OutputError, most=MOST_BYTES)
        except OutputError:
            return None
        return tensors if told.get("digest") == _digest(key, tensors) else None

    def put(self, key: Mapping[str, object], tensors: Mapping[str, Tensor]) -> bool:
        """Store tensors under a key; does nothing if the folder is not writable."""
        try:
            make_folder(self.folder)
            contents = {name: tensor.contiguous() for name, tensor in tensors.items()}
            write_tensors(self._file(key), contents, {"digest": _digest(key, contents)})
        except (OSError, SafetensorError):
            return False
        return True

    def _file(self, key: Mapping[str, object]) -> Path:
        return self.folder / f"{digest_of_json(dict(key))}.safetensors"


def _digest(key: Mapping[str, object], tensors: Mapping[str, Tensor]) -> str:
    """Digest of an entry: of the key that it answers, too, as a file can be copied to any name."""
    return digest_of_json([dict(key), digest_of_tensors(tensors)])


def default_cache() -> Cache:
    """The user's cache: `$RULEPATCH_CACHE`, else `$XDG_CACHE_HOME/rulepatch`, else `~/.cache/rulepatch`."""
    if named := os.environ.get("RULEPATCH_CACHE"):
        return Cache(Path(named))
    return Cache(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rulepatch")

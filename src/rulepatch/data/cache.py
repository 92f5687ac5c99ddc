"""Tensors kept on disk between runs, keyed by everything that determines them."""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from rulepatch.digests import digest_of_json, digest_of_tensors
from rulepatch.files import make_folder, write_tensors

__all__ = ["Cache", "default_cache"]


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
            The tensors, or None if there are none or they are damaged.
        """
        try:
            with safe_open(self._file(key), framework="pt") as file:
                digest = (file.metadata() or {}).get("digest")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return None
        return tensors if digest == digest_of_tensors(tensors) else None

    def put(self, key: Mapping[str, object], tensors: Mapping[str, Tensor]) -> bool:
        """Store tensors under a key; does nothing if the folder is not writable."""
        try:
            make_folder(self.folder)
            contents = {name: tensor.contiguous() for name, tensor in tensors.items()}
            write_tensors(self._file(key), contents, {"digest": digest_of_tensors(contents)})
        except (OSError, SafetensorError):
            return False
        return True

    def _file(self, key: Mapping[str, object]) -> Path:
        return self.folder / f"{digest_of_json(dict(key))}.safetensors"


def default_cache() -> Cache:
    """The user's cache: `$RULEPATCH_CACHE`, else `$XDG_CACHE_HOME/rulepatch`, else `~/.cache/rulepatch`."""
    if named := os.environ.get("RULEPATCH_CACHE"):
        return Cache(Path(named))
    return Cache(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rulepatch")

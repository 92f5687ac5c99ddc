"""Images in folders, read ahead in batches; statistics of keys over them; a cache keyed by content."""

from typing import TYPE_CHECKING

from rulepatch.lazy import exports

if TYPE_CHECKING:
    from rulepatch.data.cache import Cache
    from rulepatch.data.exemplar_folders import write_exemplar
    from rulepatch.data.folders import Picture
    from rulepatch.data.statistics import key_statistics
    from rulepatch.images import read_image

__all__ = ["Cache", "Picture", "key_statistics", "read_image", "write_exemplar"]

__getattr__, __dir__ = exports(__name__)

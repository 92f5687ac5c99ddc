"""How work is done, whatever it is: where statistics are kept, the seed, whether bars are shown."""

from typing import ClassVar, Literal

from pydantic import Field

from rulepatch.data.cache import Cache, default_cache
from rulepatch.settings import Settings

__all__ = ["Run"]


class Run(Settings):
    """What changes how an edit is made but not what it is, save for the seed.

    Examples:
        >>> Run(seed=1, progress=False).given()
        {'seed': 1, 'progress': False}
    """

    title: ClassVar[str] = "settings of a run"

    cache: Literal["user"] | Cache | None = Field(default="user", description="Where statistics are kept.")
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="Of everything that is random.")
    progress: bool = Field(default=True, description="Show progress bars on standard error.")

    @property
    def store(self) -> Cache | None:
        """The cache; None to keep nothing."""
        return default_cache() if self.cache == "user" else self.cache

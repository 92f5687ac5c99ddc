"""Run options common to all tasks: cache, seed, progress bars."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field

from rulepatch.data.cache import Cache, default_cache
from rulepatch.settings import Settings

__all__ = ["Run", "with_settings"]

Own = TypeVar("Own", bound=Settings)


class Run(Settings):
    """Run options; apart from the seed they do not change results.

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
        """The cache; None for no caching."""
        return default_cache() if self.cache == "user" else self.cache


def with_settings(how: Own | type[Own], run: Run, settings: Mapping[str, Any]) -> tuple[Own, Run]:
    """Settings of a piece of work and of a run with single ones replaced.

    Args:
        how: settings of the work, or their class for its defaults.
        run: settings of a run.
        settings: by name, of either.

    Raises:
        SettingError: a setting that neither has, or out of its range.
    """
    of_run = {name: settings[name] for name in settings if name in Run.model_fields}
    own = {name: settings[name] for name in settings if name not in of_run}
    changed = how(**own) if isinstance(how, type) else how.but(**own) if own else how
    return changed, run.but(**of_run) if of_run else run

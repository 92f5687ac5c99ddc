"""Doing nothing, as a baseline: whatever is compared must be better than this."""

from collections.abc import Sequence
from typing import Literal

from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.cache import Cache
from rulepatch.editors.problem import Reference, Settings, assemble, pose
from rulepatch.editors.registry import editor
from rulepatch.models.classifier import Classifier

__all__ = ["nothing"]


@editor("nothing")
def nothing(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    *,
    reference: Reference,
    site: str | Sequence[str],
    strength: float = 1.0,
    seed: int = 0,
    cache: Cache | Literal["user"] | None = "user",
    progress: bool = True,
) -> Edit:
    """Make an edit that changes nothing, with the same report as any other.

    Args:
        model: the classifier.
        exemplars: what another editor would learn from.
        reference: pictures whose treatment should stay.
        site: where another editor would edit.
        strength: makes no difference.
        seed: of the sample of the reference set's keys.
        cache: where statistics are kept; the user's own cache by default, None for nowhere.
        progress: whether to show bars.

    Raises:
        ExemplarError: no exemplars, or one that does not fit the model.
        SettingError: a setting out of range.
        SiteError: a site that the model does not have, or that cannot be edited.
    """
    settings = Settings(site, strength=strength, seed=seed)
    problem = pose(model, exemplars, settings, reference=reference, cache=cache, progress=progress)
    return assemble(problem, [], method="nothing", own={})

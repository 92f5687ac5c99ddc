"""Measurements of an edit at each of its sites, as typed records that its file holds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

__all__ = ["HOPELESS_DAMAGE", "HOPELESS_FLIPS", "UNSURE_DAMAGE", "Certificate", "SiteReport"]

HOPELESS_FLIPS = 0.2
"""Share of the reference set's predictions that flip above which an edit is hopeless."""

UNSURE_DAMAGE = 0.03
"""Predicted damage from which an edit may be hopeless; below it none that was tried was (docs/method.md)."""

HOPELESS_DAMAGE = 1.0
"""Predicted damage above which every edit without a gate that was tried is hopeless (docs/method.md)."""

_OLD_NAMES = {"still": "unchanged_share", "shut": "gate_closed_share"}
"""Names of two fields in edit files of version 0.1."""


@dataclass(frozen=True)
class Certificate:
    """Bounds on the effect of a change, from its factors and a sample of the reference set's keys.

    Attributes:
        parameters: dotted paths of the parameters that are changed.
        norm: of ΔW (Frobenius).
        relative_norm: the same relative to W.
        epsilon: a position counts as unchanged if its output can change by less than this share of the typical output.
        unchanged_share: share of the reference set's positions that are unchanged in that sense, 0..1; None for dense
            changes.
        gate_closed_share: share of positions where every gate is closed, so that nothing changes, 0..1; None for dense
            changes.
    """

    parameters: Sequence[str]
    norm: float
    relative_norm: float
    epsilon: float
    unchanged_share: float | None = None
    gate_closed_share: float | None = None

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Read from an edit file, of this version or of 0.1."""
        return cls(**{_OLD_NAMES.get(name, name): value for name, value in found.items()})


@dataclass(frozen=True)
class SiteReport:
    """Measurements of an edit at a site.

    Attributes:
        site: dotted path.
        loss_before: masked absolute error at the value point before the edit, the mean over channels and the mask.
        loss_after: the same after the edit, all sites' changes in place.
        predicted_damage: E‖ΔW k‖² / E‖W k‖² on the reference set, without gates.
        rounding: error of rounding the weight to the model's dtype, relative to the change.
        certificate: bounds on the effect of the change; None if the file has none.
        protected_damage: the predicted damage on the protected images; None without them.
        gated_damage: the predicted damage with the gates in place, on a sample of keys; None without gates.
    """

    site: str
    loss_before: float
    loss_after: float
    predicted_damage: float
    rounding: float = 0.0
    certificate: Certificate | None = None
    protected_damage: float | None = None
    gated_damage: float | None = None

    @property
    def damage(self) -> float:
        """The predicted damage, with the gates in place if there are any."""
        return self.predicted_damage if self.gated_damage is None else self.gated_damage

    def to_json(self) -> dict[str, Any]:
        """The report, as it stands in an edit file."""
        return {
            "site": self.site,
            "loss": {"before": self.loss_before, "after": self.loss_after},
            "predicted_damage": self.predicted_damage,
            "rounding": self.rounding,
            "certificate": None if self.certificate is None else asdict(self.certificate),
            **({} if self.protected_damage is None else {"protected_damage": self.protected_damage}),
            **({} if self.gated_damage is None else {"gated_damage": self.gated_damage}),
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Read from an edit file."""
        certificate = found.get("certificate")
        return cls(
            found["site"],
            found["loss"]["before"],
            found["loss"]["after"],
            found["predicted_damage"],
            found.get("rounding", 0.0),
            None if not certificate else Certificate.from_json(certificate),
            found.get("protected_damage"),
            found.get("gated_damage"),
        )

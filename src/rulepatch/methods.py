"""The settings of every way to make an edit; what each does is in `rulepatch.editors` and `rulepatch.inverse`.

Loads no torch, so that the command line can show its help at once.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from rulepatch.errors import SettingError, warn
from rulepatch.registry import Registry
from rulepatch.settings import Settings, Usual
from rulepatch.text import read_share

__all__ = [
    "FLOOR",
    "MAX_DROP",
    "STRONGEST",
    "Dense",
    "FineTuneGlobal",
    "FineTuneLocal",
    "InverseFourier",
    "InversePinv",
    "InverseTranspose",
    "LastLayer",
    "MaxDrop",
    "Method",
    "NoEdit",
    "ProjectedAdam",
    "Rewrite",
]

FLOOR = 1e-5
"""Of second moments that are whitened, unless a method is told otherwise."""

RIDGE = 1e-3

STRONGEST = 1e6
"""Beyond it no change is a rule any more, and products of float32 are soon infinite."""

MAX_DROP = 0.0025
"""The paper's damage budget: a quarter of a point of accuracy."""

Rank = Annotated[int, Field(ge=1, description="Number of directions at each site."), Usual(1, 10)]
Strength = Annotated[
    float, Field(ge=-STRONGEST, le=STRONGEST, description="Scale of the change; 1 to 4 is usual."), Usual(0, 5)
]
Gate = Annotated[
    Literal["auto"] | Annotated[float, Field(ge=0, lt=1)] | None,
    Field(description="Quantile of the reference beyond which it acts."),
    Usual(0.9, 0.95, 0.98, 0.99),
]
Floor = Annotated[float, Field(ge=0, lt=1, description="Smallest relative eigenvalue of C.")]
Ridge = Annotated[float, Field(ge=0, description="Ridge, relative to the mean diagonal.")]
Steps = Annotated[int, Field(ge=0, description="Optimisation steps.")]
LearningRate = Annotated[float, Field(gt=0, description="Learning rate.")]
Cutoff = Annotated[float, Field(ge=0, lt=1, description="Smallest singular value inverted, relative to the largest.")]
Projected = Annotated[bool, Field(description="Keep the change in the span of the directions.")]
ValuePoint = Annotated[str | None, Field(description="Module matched; found if none.")]
WholeImage = Annotated[bool, Field(description="Ignore the mask (an ablation).")]
MaxDrop = Annotated[
    float,
    BeforeValidator(lambda value: read_share(value) if isinstance(value, str) else value),
    Field(ge=0, le=1, description="Most accuracy lost on the reference set, such as 1%."),
]


_METHODS = Registry[type["Method"]]("method", {}, group="rulepatch.editors")


class Method(Settings):
    """Settings of a way to make an edit.

    Attributes:
        name: of the method, on the command line and in edit files.
    """

    name: ClassVar[str] = ""
    known: ClassVar[Mapping[str, type["Method"]]] = _METHODS.imported
    """Classes of settings by the name of their method, of the packages that were imported so far."""

    images: ClassVar[frozenset[str]] = frozenset()
    """Which of `protect` and `style` it takes."""

    takes_site: ClassVar[bool] = True
    """Whether it is told where to edit."""

    strength: Strength = 1.0

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls.title = f"settings of {cls.name}"
        _METHODS.register(cls.name)(cls)

    @staticmethod
    def named(name: str) -> "type[Method] | None":
        """The settings of a method by its name; another package that has it in an entry point is imported.

        Returns:
            The class; None if there is none of that name, or with a warning if its package cannot be imported.
        """
        try:
            if name in _METHODS:
                return _METHODS[name]
        except SettingError as error:
            warn(str(error))
        return None

    @property
    def unfolded(self) -> bool:
        """Whether keys are unfolded patches of the layer's input rather than its channels (thesis fig. 2-3)."""
        return False


class Rewrite(Method):
    """The reduced least-squares solve: directions first, then only their coefficients are unknown (docs/method.md)."""

    name = "rewrite"
    images = frozenset({"protect", "style"})

    rank: Rank = 1
    gate: Gate = "auto"
    gate_kind: Literal["hard", "soft"] = Field(default="hard", description="All or nothing, or in proportion.")
    architecture: Literal[1, 2] = Field(default=1, description="Keys are channels (1) or patches (2).")
    match: Literal["auto", "pre-activation", "value"] = Field(default="auto", description="What the edit reproduces.")
    error: Literal["squared", "absolute"] = Field(default="squared", description="Loss at each position.")
    steps: Steps = Field(default=600, description="Steps where there is no closed form.")
    ridge: Ridge = RIDGE
    minimum: bool = Field(default=False, description="Lower logits and raise none, in two passes.")
    coupling: Literal["none", "sequence", "joint"] = Field(default="none", description="How several sites are solved.")
    floor: Floor = FLOOR
    value_point: ValuePoint = None
    whole_image: WholeImage = False
    protected_share: float = Field(default=0.9, gt=0, lt=1, description="Share of protected power spared.")

    @property
    def unfolded(self) -> bool:
        """Whether keys are unfolded patches."""
        return self.architecture == 2


class ProjectedAdam(Method):
    """The authors' algorithm: Adam on the whole weight, projected onto the directions now and then (thesis 2.1.5)."""

    name = "projected-adam"

    rank: Rank = 1
    gate: Gate = Field(default=None, description="As in rewrite, set after the fact: Adam knows nothing of it.")
    gate_kind: Literal["hard"] = Field(default="hard", description="Adam does not know of soft gates.")
    architecture: Literal[1, 2] = Field(default=1, description="Keys are channels (1) or patches (2).")
    steps: Steps = 20_000
    learning_rate: LearningRate = 1e-4
    project_every: int = Field(default=10, ge=1, description="Steps between projections.")
    projected: Projected = True
    floor: Floor = FLOOR
    value_point: ValuePoint = None
    whole_image: WholeImage = False

    @model_validator(mode="after")
    def _gate_needs_directions(self) -> Self:
        if self.gate is not None and not self.projected:
            raise SettingError("expected no gate without the projection but got both; a dense change acts everywhere")
        return self

    @property
    def unfolded(self) -> bool:
        """Whether keys are unfolded patches."""
        return self.architecture == 2


class FineTuneLocal(Method):
    """SGD on the sites' weights alone, towards the original labels (paper 4; thesis eq. 2.22)."""

    name = "finetune-local"

    steps: Steps = 200
    learning_rate: LearningRate = 1e-3
    projected: Projected = False
    rank: Rank = 1
    floor: Floor = FLOOR


class FineTuneGlobal(FineTuneLocal):
    """SGD on every parameter from a site to the output (paper 4; thesis eq. 2.22)."""

    name = "finetune-global"


class LastLayer(Method):
    """Retraining the last layer on the edited images and the reference set (after Kirichenko et al. 2023)."""

    name = "last-layer"
    takes_site = False

    steps: Steps = Field(default=50, description="Steps of L-BFGS.")
    pull: float = Field(default=1.0, gt=0, description="Weight of the exemplars beside the reference set.")
    ridge: float = Field(default=0.1, gt=0, description="Penalty on the change, relative to the weights' squared norm.")
    pictures: int = Field(default=500, ge=1, description="Reference images used at most.")


class Dense(Method):
    """Least squares of the whole weight, in the form of MEMIT (Meng et al. 2023, eq. 14)."""

    name = "dense"

    balance: float = Field(default=1.0, gt=0, description="Weight of the reference keys beside the marked positions.")
    value_point: ValuePoint = None
    whole_image: WholeImage = False

    @property
    def unfolded(self) -> bool:
        """Keys are unfolded patches."""
        return True


class InverseTranspose(Method):
    """Editing the transpose of a layer's weight (thesis 3.1, Algorithm 1)."""

    name = "inverse-transpose"

    rank: Rank = Field(default=1, description="Directions of outputs that the edited memory reads.")
    architecture: Literal[3, 4] = Field(
        default=4, description="A patch of outputs recalls an input (3), or the reverse (4)."
    )
    ridge: Ridge = RIDGE
    floor: Floor = FLOOR
    whole_image: WholeImage = False

    @property
    def unfolded(self) -> bool:
        """Whether keys are unfolded patches."""
        return self.architecture == 4


class InversePinv(InverseTranspose):
    """Editing the pseudo-inverse of a layer's weight (thesis 3.2, eq. 3.11-3.13)."""

    name = "inverse-pinv"

    cutoff: Cutoff = 1e-3


class InverseFourier(Method):
    """Editing the inverse of a layer's convolution in the Fourier domain (thesis 3.3, eq. 3.52-3.57)."""

    name = "inverse-fourier"

    balance: float = Field(default=1.0, ge=0, description="Weight of the reference set; the constraint is exact at 0.")
    cutoff: Cutoff = 1e-3
    floor: Floor = FLOOR
    fitted: bool = Field(default=False, description="Fit the layer's taps instead of cutting the kernel off.")
    whole_image: WholeImage = False

    @property
    def unfolded(self) -> bool:
        """Keys are unfolded patches."""
        return True


class NoEdit(Method):
    """Changing nothing, as a baseline."""

    name = "nothing"

"""What a layer's output says of its input: keys, feature maps and images rebuilt from it (thesis eq. 3.9-3.15).

From noise, an input is sought whose output is that of the original image. In an untouched network it comes to look
like the original's input. After an edit in the inverse direction it should look like the edited image's: wheels
become wooden. Curves of loss and cosine follow it there, at three levels: single keys, the layer's feature map, and the
whole image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.core.site_activations import SiteActivations
from rulepatch.data.run import Run, with_settings
from rulepatch.editors.problem import record_exemplars
from rulepatch.errors import SettingError
from rulepatch.forward import gradients
from rulepatch.inverse import matrices
from rulepatch.inverse.memory import build_inverse_problem
from rulepatch.inverse.result import LEVELS, Inversion, Level, Reconstruction, When
from rulepatch.inverse.settings import InvertSettings, Optimiser
from rulepatch.models.classifier import Classifier
from rulepatch.progress import Bar
from rulepatch.tracing import capture
from rulepatch.tracing.sites import Layer, flatten_positions, key_axis

__all__ = ["invert", "reconstruct", "total_variation"]

START = 0.01
"""Size of the noise that a reconstruction begins with, beside that of what it is to become.

What no output depends on stays as it began; of larger noise it would drown every likeness.
"""

LOOKS = 25
"""How often an image's features are looked at on the way."""


def total_variation(pictures: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, which noise has most of.

    Args:
        pictures: (n, channels, height, width).

    Returns:
        A number ≥ 0.

    Examples:
        >>> float(total_variation(torch.ones(1, 3, 4, 4)))
        0.0
    """
    return (pictures.diff(dim=2).abs().mean() + pictures.diff(dim=3).abs().mean()) / 2


def reconstruct(
    loss: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    watch: Callable[[int, Tensor], None] = lambda step, found: None,
    optimiser: Optimiser = "lbfgs",
    steps: int = 100,
    learning_rate: float = 0.05,
    unit: float = 1.0,
    progress: str | None = None,
) -> Tensor:
    """Seek what a loss is least for, from a start.

    Args:
        loss: of a tensor like the start, a number.
        start: what to begin with; it is not changed.
        watch: told of the start and of what each step found.
        optimiser: "lbfgs" with a line search, or "adam".
        steps: how many.
        learning_rate: of Adam.
        unit: usual size of the numbers sought, which steps are measured by; above 0.
        progress: what a progress bar says; no bar if None.

    Examples:
        >>> found = reconstruct(lambda x: (x - 3).square().sum(), torch.zeros(2), steps=5)
        >>> [round(float(number), 3) for number in found]
        [3.0, 3.0]
    """
    found = (start.detach() / unit).clone(memory_format=torch.contiguous_format).requires_grad_()
    descent = _descent(found, optimiser, learning_rate)

    def closure() -> Tensor:
        with torch.enable_grad():
            value = loss(unit * found)
            (gradient,) = gradients(value, [found])
        found.grad = gradient.contiguous()
        return value.detach()

    watch(0, unit * found.detach())
    with Bar(steps, progress or "steps", shown=progress is not None) as bar:
        for step in range(1, steps + 1):
            descent.step(closure)
            watch(step, unit * found.detach())
            bar.update()
    return unit * found.detach()


def _descent(found: Tensor, optimiser: Optimiser, learning_rate: float) -> Any:
    if optimiser == "adam":
        return torch.optim.Adam([found], lr=learning_rate)
    return torch.optim.LBFGS(  # the line search needs more evaluations than one step is given by default
        [found], max_iter=1, max_eval=20, history_size=20, line_search_fn="strong_wolfe", tolerance_grad=0,
        tolerance_change=0,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Scene:
    """What all reconstructions of a run share."""

    model: Classifier
    seen: SiteActivations
    inputs: Tensor
    how: InvertSettings
    generator: torch.Generator
    progress: bool

    @property
    def axis(self) -> int:
        return key_axis(self.seen.site.kind)

    @property
    def options(self) -> dict[str, Any]:
        """Of every descent."""
        return {name: getattr(self.how, name) for name in ("optimiser", "steps", "learning_rate")}

    def noise(self, like: Tensor) -> Tensor:
        """A start of small noise, the same for every edit."""
        drawn = torch.randn(like.shape, generator=self.generator, dtype=torch.float64)
        return START * drawn.to(like) * like.std()

    def cosines(self, keys: Tensor) -> tuple[float, float]:
        """Mean cosine of a site's input at the marked positions to the edited and to the original images'."""
        weights = self.seen.key_weights.to(keys.device).flatten()
        sides = (self.seen.edited.keys, self.seen.original.keys)
        flat = flatten_positions(keys.detach(), self.axis).flatten(0, 1).double()
        found = [_cosine(flat, flatten_positions(each, self.axis).flatten(0, 1).double(), weights) for each in sides]
        return found[0], found[1]


class _Curve:
    """Collects the numbers of a reconstruction on its way."""

    def __init__(self, distance: Callable[[Tensor], Tensor], cosines: Callable[[Tensor], tuple[float, float]]) -> None:
        self._distance, self._cosines = distance, cosines
        self.rows: list[tuple[int, float, float, float]] = []

    def add(self, step: int, found: Tensor) -> None:
        with torch.no_grad():
            self.rows.append((step, float(self._distance(found)), *self._cosines(found)))

    def finished(self, level: Level, when: When, **more: Any) -> Reconstruction:
        steps, losses, to_edited, to_original = zip(*self.rows, strict=True)
        return Reconstruction(level, when, steps, losses, to_edited, to_original, **more)


def _unit(like: Tensor) -> float:
    """Root mean square of a tensor, 1 if it is all zero."""
    return float(like.square().mean().sqrt()) or 1.0


def _cosine(found: Tensor, wanted: Tensor, weights: Tensor) -> float:
    each = F.cosine_similarity(found, wanted, dim=1)
    return float(weights @ each / weights.sum())


def _relative(target: Tensor) -> Callable[[Tensor], Tensor]:
    """Squared distance from a target, relative to the target's own square."""
    size = target.square().sum().clamp(min=torch.finfo(target.dtype).tiny)
    return lambda output: (output - target).square().sum() / size


def invert(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    *,
    site: str,
    edit: Edit | None = None,
    levels: Sequence[Level] = LEVELS,
    before: bool = True,
    how: InvertSettings = InvertSettings(),  # noqa: B008 - it is frozen
    run: Run = Run(),  # noqa: B008
    **settings: Any,
) -> Inversion:
    """Rebuild keys, feature maps, images from a layer's output for the original images, before and after an edit.

    Args:
        model: the classifier; it is not changed.
        exemplars: images, their edited counterparts and masks.
        site: dotted path of the layer whose output is the target.
        edit: of that layer; if None nothing is rebuilt after it.
        levels: "key", "map", "image", or some of them.
        before: whether to rebuild them before the edit, too; without an edit that is all there is.
        how: what is aimed at: the output of the untouched network, which the rule is about, or of the edited one, as
            in the thesis; the keys' architecture (thesis fig. 2-3); and how it is sought.
        run: seed of the noise that every reconstruction begins with, and progress.
        settings: single settings of `how` and of `run` by name, in place of theirs.

    Raises:
        SettingError: a setting out of range, or keys of a layer behind a gate.
        SiteError: a site that the model does not have, or that cannot be edited.
        BaseMismatchError: the edit was made for another model.
    """
    how, run = with_settings(how, run, settings)
    unknown = [level for level in levels if level not in LEVELS]
    if unknown or not levels:
        raise SettingError(
            f"expected levels among {', '.join(LEVELS)} but got {', '.join(unknown) or 'none'}; choose some"
        )
    if "key" in levels and edit is not None and any(change.gate for change in edit.changes if change.site == site):
        raise SettingError(
            f"expected an edit without a gate to rebuild single keys at {site} but it has one; leave out --level key, "
            "or make the edit with --gate none"
        )
    inputs, _, (seen,) = record_exemplars(model, exemplars, [site], edited=False)
    states: list[tuple[When, Classifier]] = [("before", model)] if before or edit is None else []
    if edit is not None:
        states.append(("after", edit.apply(model)))
    rebuild = {"key": _rebuild_keys, "map": _rebuild_map, "image": _rebuild_image}
    found = []
    for level in levels:
        for when, state in states:
            generator = torch.Generator().manual_seed(run.seed)
            found.append(rebuild[level](_Scene(state, seen, inputs, how, generator, run.progress), when))
    method = None if edit is None else str(edit.provenance.get("method", "composed"))
    return Inversion(model.name, site, method, how.describe() | {"seed": run.seed}, exemplars, found)


def _layer_of(scene: _Scene) -> Any:
    return scene.model.module.get_submodule(scene.seen.site.path)


def _rebuild_keys(scene: _Scene, when: When) -> Reconstruction:
    """The input of each marked output by itself, through the weight as a matrix, without bias (thesis fig. 3-7)."""
    architecture = scene.how.architecture
    inverse, layer = build_inverse_problem(scene.seen, architecture), _layer_of(scene)
    assert isinstance(layer, Layer)
    weight = layer.weight.detach().to(inverse.keys).reshape(scene.seen.site.shape)
    matrix = matrices.matrix_of(weight, architecture)
    wanted = inverse.originals @ matrix.T if scene.how.target == "edited" and architecture == 4 else inverse.keys
    distance = _relative(wanted)

    def of(keys: Tensor) -> Tensor:
        return distance(keys @ matrix.T)

    curve = _Curve(
        of,
        lambda keys: (
            _cosine(keys, inverse.values, inverse.weights),
            _cosine(keys, inverse.originals, inverse.weights),
        ),
    )
    bar = f"keys {when}" if scene.progress else None
    start, unit = scene.noise(inverse.values), _unit(inverse.values)
    reconstruct(of, start, watch=curve.add, unit=unit, progress=bar, **scene.options)
    return curve.finished("key", when)


def _target(scene: _Scene) -> Tensor:
    """The site's output for the original images."""
    if scene.how.target == "base":
        return scene.seen.original.output.detach()
    path = scene.seen.site.path
    return capture.outputs_of(scene.model.module, scene.inputs, {path: path})[path].detach()


def _rebuild_map(scene: _Scene, when: When) -> Reconstruction:
    """The layer's whole input, through the layer itself (thesis eq. 3.14-3.15)."""
    layer, distance = _layer_of(scene), _relative(_target(scene))

    def of(keys: Tensor) -> Tensor:
        return distance(layer(keys))

    curve = _Curve(of, scene.cosines)
    bar = f"feature map {when}" if scene.progress else None
    start, unit = scene.noise(scene.seen.original.keys), _unit(scene.seen.original.keys)
    with capture.inference(scene.model.module, gradients=True):
        found = reconstruct(of, start, watch=curve.add, unit=unit, progress=bar, **scene.options)
    return curve.finished("map", when, similarity=_similarity(scene, found))


def _similarity(scene: _Scene, found: Tensor) -> dict[str, Tensor]:
    """Dot products position by position (thesis figs. 3-4 and 3-5), laid over the image where they have places."""
    places = scene.seen.site.key_places
    if places is None:
        return {}
    maps = {}
    for name, keys in (("edited", scene.seen.edited.keys), ("original", scene.seen.original.keys)):
        other = flatten_positions(keys, scene.axis)
        products = (flatten_positions(found, scene.axis) * other).sum(dim=-1) / other.square().sum(dim=-1).mean()
        maps[name] = places.to_map(products.reshape(len(scene.seen.masks), -1)).cpu()
    return maps


def _rebuild_image(scene: _Scene, when: When) -> Reconstruction:
    """The image, through all layers up to this one (thesis eq. 3.9-3.10)."""
    model, path, distance = scene.model, scene.seen.site.path, _relative(_target(scene))
    every = max(1, scene.how.steps // LOOKS)

    def of(pictures: Tensor) -> Tensor:
        output = capture.outputs_of(model.module, model.inputs(pictures), {path: path}, gradients=True)[path]
        return distance(output)

    def loss(pictures: Tensor) -> Tensor:
        plain = of(pictures)
        return plain + scene.how.variation * total_variation(pictures) if scene.how.variation else plain

    def cosines(pictures: Tensor) -> tuple[float, float]:
        return scene.cosines(capture.input_of(model.module, model.inputs(pictures), path))

    curve = _Curve(of, cosines)

    def watch(step: int, pictures: Tensor) -> None:
        if step % every == 0 or step == scene.how.steps:
            curve.add(step, pictures)

    start = 0.5 + scene.noise(scene.inputs.detach())
    bar = f"image {when}" if scene.progress else None
    found = reconstruct(loss, start, watch=watch, progress=bar, **scene.options)
    return curve.finished("image", when, pictures=found.clamp(0, 1).float().cpu())

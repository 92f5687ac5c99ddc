"""A new class from one image: a class-specific filter (thesis chapter 4), the thesis's baselines, two of today's."""

import importlib.metadata
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rulepatch.core.changes import NewClass
from rulepatch.core.edit import Edit, base_digest
from rulepatch.core.exemplars import Exemplar
from rulepatch.core.patched_model import PatchedModel
from rulepatch.core.site_activations import position_weights
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.data.run import Run, with_settings
from rulepatch.data.stream import ImageStream
from rulepatch.editors.problem import masked_inputs
from rulepatch.errors import ExemplarError, ModelError, SettingError, SiteError
from rulepatch.models.classifier import Classifier
from rulepatch.new_classes import logit
from rulepatch.new_classes.calibration import LogitSample, calibrated, collect_logits
from rulepatch.new_classes.settings import NewClassSettings
from rulepatch.tracing import capture
from rulepatch.tracing.model_sites import sites_of
from rulepatch.tracing.sites import Layer, Site, flatten_positions, key_axis, unfold

__all__ = ["new_class"]

WORDS = ("mined", "random", "none")


@dataclass(frozen=True, eq=False)
class _Posed:
    """What every method looks at."""

    model: Classifier
    name: str
    inputs: Tensor
    masks: Tensor
    site: Site
    head: Site
    learn: ImageSet
    negatives: ImageSet | str
    parts: Sequence[Exemplar]
    how: NewClassSettings
    run: Run

    def row(self, weight: Tensor) -> NewClass:
        """A row of the head, (c,)."""
        path, weight = self.head.path, weight.float().cpu().reshape(1, -1, 1, 1)
        return NewClass(self.name, path, path, weight, torch.zeros(1))

    def features(self, inputs: Tensor) -> Tensor:
        """What the head reads of some images, (n, c), float64."""
        keys = capture.input_of(self.model.module, inputs, self.head.path)
        return flatten_positions(keys, key_axis(self.head.kind)).mean(dim=1).cpu().double()

    def batches(self) -> Iterator[tuple[tuple[Picture, ...], Tensor]]:
        """The half of the reference set that may be learnt from, as inputs."""
        for batch in ImageStream.of(self.model, self.learn, "negatives", progress=self.run.progress):
            yield batch.pictures, self.model.inputs(batch.pixels)


def new_class(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    name: str,
    *,
    reference: Any,
    site: str | None = None,
    negatives: Any = "random",
    parts: Sequence[Exemplar] = (),
    how: NewClassSettings = NewClassSettings(),  # noqa: B008 - it is frozen
    run: Run = Run(),  # noqa: B008
    **settings: Any,
) -> Edit:
    r"""Add a class to a classifier from one image with a painted silhouette, or a few (thesis chapter 4).

    The new logit is ℓ = s·r + b, where r is the response of a filter trained to draw the silhouette (eq. 4.4), or of a
    row of the head. It stands beside the network: all other logits stay as they were, bit for bit (up to rounding where
    the network pools them after a convolutional head), so that a prediction changes only where the new class wins. One
    half of the reference set gives the negatives; s and b are set on the other half, so that the new logit is as loud
    as an old one and takes no more right predictions than `max_drop` allows.

    Args:
        model: the classifier; it is not changed.
        exemplars: images of the class and its silhouette in them, as masks; what was edited in them does not matter.
        name: of the class.
        reference: images of the old classes and none of the new one: a folder, or images in memory.
        site: dotted path of the layer whose keys the filter reads; the last one with positions if None. The other
            methods read what the head reads.
        negatives: what is not the class, for the filter: "random" reference images; "mined", those that a filter
            without negatives answers to most; "none"; or images.
        parts: images with masks of what the class is composed of, for "compositional"; if there are none, the two
            reference images that the model is surest of for the two classes that it takes the exemplars for.
        how: the method and its settings: "filter"; the thesis's baselines "random", "class-feature" and
            "compositional"; "imprinted", the mean normalised feature (Qi et al. 2018); "ridge", a regression on
            features. To promise a `max_drop` takes twice as many images as its inverse.
        run: seed of the halves and of everything that is drawn, and progress.
        settings: single settings of `how` and of `run` by name, in place of theirs.

    Returns:
        The edit. Applied to a `Classifier` it gives one that knows the class.

    Raises:
        ExemplarError: no exemplars, or a mask outside of what the model sees.
        FolderError: the reference set is missing, or too small to be halved.
        SettingError: a setting out of range, a name that is taken, or a method that does not suit the network.
        SiteError: the logits are not the outputs of a last layer, or the site has no positions.

    Examples:
        >>> from rulepatch.models.registry import load_model
        >>> from rulepatch.playground.pictures import exemplar, training_images
        >>> model, picture = load_model("playground"), exemplar("van", ground="snow", seed=1)
        >>> edit = new_class(model, [picture], "lorry", reference=training_images(24, seed=3), method="imprinted")
        >>> edit.apply(model).classes.names[-1]
        'lorry'
    """
    how, run = with_settings(how, run, settings)
    if not exemplars:
        raise ExemplarError("expected at least one image of the new class but got none; give one with a mask")
    _check_name(model, name)
    inputs, masks = masked_inputs(model, exemplars)
    where, head = _places(model, inputs, name, site)
    known = negatives if isinstance(negatives, str) and negatives in WORDS else ImageSet.of(negatives, model.classes)
    learn, choose = ImageSet.of(reference, model.classes).split(0.5, seed=run.seed)
    change = _FINDERS[how.method](_Posed(model, name, inputs, masks, where, head, learn, known, parts, how, run))
    change, told = calibrated(
        model, change, choose, max_drop=how.max_drop, logit_scale=how.logit_scale,
        progress="calibration" if run.progress else None,
    )  # fmt: skip
    used = how.describe() | {
        "count": how.count_used(str(negatives)), "site": change.site,
        "negatives": known if isinstance(known, str) else known.digest(), "seed": run.seed,
    }  # fmt: skip
    provenance = {
        "method": f"new-class {how.method}",
        "settings": used,
        "model": model.name,
        "class": name,
        "sites": [],
        "calibration": told,
        "exemplars": [
            {"name": each.name, "digest": each.digest(), "label": name, "concept": each.concept, "replacement": None}
            for each in exemplars
        ],
        "libraries": {each: importlib.metadata.version(each) for each in ("rulepatch", "torch", "torchvision", "timm")},
    }
    return Edit((change,), base_digest(model.module), provenance)


def _check_name(model: Classifier, name: str) -> None:
    try:
        label = model.classes.index(name)
    except SettingError:
        return
    raise SettingError(f"expected the name of a new class but {name!r} is class {label}; take another")


def _places(model: Classifier, inputs: Tensor, name: str, path: str | None) -> tuple[Site, Site]:
    """The site and the head; a class of zeros at the head shows whether the logits are its outputs."""
    site_list = sites_of(model)
    spatial = [site for site in site_list.sites if site.is_spatial]
    if path is None and not spatial:
        raise SiteError(f"expected a layer with positions in {model.name} but it has none; name the site")
    head = site_list.sites[-1]
    site = spatial[-1] if path is None else site_list.site(path)
    if not site.is_spatial or (site.output_places is not None and site.output_places.windows > 1):
        raise SiteError(
            f"expected a site whose positions lie in the image but {site.path} has none or cuts it into windows; "
            f"take {spatial[-1].path if spatial else 'another'}"
        )
    zeros = NewClass(name, head.path, head.path, torch.zeros(1, *head.shape[1:]), torch.zeros(1))
    with capture.inference(model.module):
        before = model.logits(inputs)
        try:
            with PatchedModel(model.module, [zeros]):
                after = model.with_module(model.module, [name]).logits(inputs)
            # a pool after a convolutional head may sum in another order for one more channel
            same = torch.equal if head.kind == "linear" else torch.allclose
            fits = same(after[:, :-1], before)
        except (RuntimeError, ModelError):
            fits = False
    if not fits:
        raise SiteError(
            f"expected the logits of {model.name} to be the outputs of its last layer, {head.path}, but they are not; "
            "a class can only be added to a network that ends in one linear layer or 1×1 convolution"
        )
    return site, head


def _filter(posed: _Posed) -> NewClass:
    """The class-specific filter (thesis eq. 4.4)."""
    module, site, how = posed.model.module, posed.site, posed.how
    layer = module.get_submodule(site.path)
    assert isinstance(layer, Layer)

    def seen(inputs: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            keys = capture.input_of(module, inputs, site.path)
            return unfold(layer, keys).cpu().double(), layer(keys)

    positive, output = seen(posed.inputs)
    share = position_weights(posed.masks.cpu(), output.cpu(), key_axis(site.kind), site.output_places)
    images, positions = share.shape

    def fitted(negatives: Tensor | None) -> NewClass:
        found, targets = [positive.flatten(0, 1)], [share.flatten()]
        weights = [torch.full((images * positions,), 1 / (images * positions), dtype=torch.float64)]
        if negatives is not None:
            found.append(seen(negatives)[0].flatten(0, 1))
            targets.append(torch.zeros(len(found[1]), dtype=torch.float64))
            weights.append(torch.full((len(found[1]),), how.balance / positions, dtype=torch.float64))
        problem = [torch.cat(each) for each in (found, targets, weights)]
        weight, offset = logit.fit_filter(*problem, ridge=how.ridge_used)
        shape = (1, *site.shape[1:])
        return NewClass(
            posed.name, site.path, posed.head.path, weight.float().reshape(shape), offset.float().reshape(1),
            activation="sigmoid", pool=how.pool,
        )  # fmt: skip

    if posed.negatives == "none" or how.balance == 0:
        return fitted(None)
    return fitted(_negatives(posed, lambda: fitted(None)))


def _negatives(posed: _Posed, first: Callable[[], NewClass]) -> Tensor:
    """Inputs of images that are not the class; mined are those that a first filter answers to most."""
    images, count = posed.learn, posed.how.count_used(str(posed.negatives))
    if isinstance(posed.negatives, ImageSet):
        images = posed.negatives
    elif posed.negatives == "random":
        images = images.sample(count, seed=posed.run.seed)
    else:
        sample: LogitSample = collect_logits(
            posed.model, first(), images, progress="mining" if posed.run.progress else None
        )
        top = sample.responses.topk(min(count, len(sample.pictures))).indices.tolist()
        images = ImageSet(tuple(sample.pictures[i] for i in top), images.name)
    preprocess = posed.model.preprocess
    pixels = [preprocess.pixels(each.read(alpha=preprocess.has_alpha), framed=each.framed) for each in images.pictures]
    return posed.model.inputs(torch.stack(pixels))


def _random(posed: _Posed) -> NewClass:
    """A row of standard normal numbers."""
    generator = torch.Generator().manual_seed(posed.run.seed)
    return posed.row(torch.randn(posed.head.shape[1], generator=generator))


def _class_feature(posed: _Posed) -> NewClass:
    """The normalised feature of the class under its mask."""
    return posed.row(F.normalize(_under(posed, posed.inputs, posed.masks).sum(dim=0), dim=0))


def _compositional(posed: _Posed) -> NewClass:
    """The normalised sum of the features of its parts."""
    if posed.parts:
        inputs, masks = masked_inputs(posed.model, posed.parts)
    else:
        inputs = _surest(posed)
        masks = torch.ones(len(inputs), *inputs.shape[2:], device=inputs.device)
    return posed.row(F.normalize(_under(posed, inputs, masks).sum(dim=0), dim=0))


def _surest(posed: _Posed) -> Tensor:
    """The reference image that the model is surest of for each of the two classes that it takes the exemplars for."""
    model = posed.model
    with capture.inference(model.module):
        said = model.logits(posed.inputs).mean(dim=0).topk(2).indices
        best: list[tuple[float, Tensor]] = [(-math.inf, posed.inputs[0])] * 2
        for _, inputs in posed.batches():
            values, places = model.logits(inputs)[:, said].max(dim=0)
            for i in range(2):
                if float(values[i]) > best[i][0]:
                    best[i] = (float(values[i]), inputs[places[i]])
    return torch.stack([picture for _, picture in best])


def _under(posed: _Posed, inputs: Tensor, masks: Tensor) -> Tensor:
    """Normalised means of the last feature map under masks, (n, c)."""
    module, head = posed.model.module, posed.head
    if head.is_spatial:
        values, axis, places = capture.input_of(module, inputs, head.path), key_axis(head.kind), head.key_places
    else:
        site = [each for each in sites_of(posed.model).sites if each.is_spatial][-1]
        values = capture.record(module, inputs, {site.path: site.value_point})[site.path].values
        axis, places = site.channel_axis, site.value_places
    values, masks = values.cpu(), masks.cpu()
    found = flatten_positions(values, axis).double()
    if found.shape[2] != posed.head.shape[1]:
        raise SettingError(
            f"expected a head that reads the last feature map's {found.shape[2]} channels, pooled, but "
            f"{posed.head.path} reads {posed.head.shape[1]} numbers behind hidden layers; take the method filter, "
            "imprinted or ridge"
        )
    weights = position_weights(masks, values, axis, places)
    return F.normalize(torch.einsum("np,npc->nc", weights, found), dim=1)


def _imprinted(posed: _Posed) -> NewClass:
    """The mean normalised feature, normalised (Qi et al. 2018)."""
    return posed.row(F.normalize(F.normalize(posed.features(posed.inputs), dim=1).mean(dim=0), dim=0))


def _ridge(posed: _Posed) -> NewClass:
    """Ridge regression on what the head reads, against half of the reference set."""
    others = torch.cat([posed.features(inputs) for _, inputs in posed.batches()])
    return posed.row(logit.ridge_row(posed.features(posed.inputs), others, ridge=posed.how.ridge_used))


_FINDERS: dict[str, Callable[[_Posed], NewClass]] = {
    "filter": _filter,
    "random": _random,
    "class-feature": _class_feature,
    "compositional": _compositional,
    "imprinted": _imprinted,
    "ridge": _ridge,
}

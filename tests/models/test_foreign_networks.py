"""Networks as other people write them, each tried with every public call: it works, or one sentence says why not."""

import re
import threading
import warnings
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass, make_dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

import rulepatch as rp
from rulepatch.core.edit import base_digest
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.data.statistics import key_statistics
from rulepatch.editors.edit import front
from rulepatch.errors import ModelError, RulepatchError, RulepatchWarning
from rulepatch.models.classifier import Classifier
from rulepatch.models.export import export
from rulepatch.models.outputs import as_logits
from rulepatch.models.preprocess import Preprocess
from rulepatch.tracing.sites import find_sites

SIZE = 16
CLASSES = ["red", "green", "blue"]


class Small(nn.Module):
    """Two convolutions and a head; what is done before, between and after them can be given."""

    def __init__(self, before=None, between=None, after=None, classes=3, channels=3):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.norm = nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.second, self.head = nn.Conv2d(6, 8, 3, padding=1), nn.Linear(8, classes)
        nn.init.normal_(self.head.weight, std=2.0)  # logits that differ
        self.before, self.between, self.after = (each or (lambda x: x) for each in (before, between, after))

    def forward(self, x):
        x = torch.relu(self.norm(self.first(self.before(x))))
        x = torch.relu(self.second(self.between(x)))
        return self.after(self.head(x.mean((2, 3))))


class Around(nn.Module):
    """Runs a network in some surroundings."""

    def __init__(self, surroundings, net=None):
        super().__init__()
        self.net, self.surroundings = net or Small(), surroundings

    def forward(self, x):
        return self.surroundings(self.net, x)


def around(surroundings):
    return lambda: Around(surroundings)


def within(context):
    def surroundings(net, x):
        with context():
            return net(x)

    return around(surroundings)


class Flat(nn.Module):
    """A feature map flattened by `view`, as in most old networks."""

    def __init__(self, size=SIZE):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.head = nn.Linear(8 * size * size // 16, 3)

    def forward(self, x):
        x = F.max_pool2d(torch.relu(self.first(x)), 2)
        x = F.max_pool2d(torch.relu(self.second(x)), 2)
        return self.head(x.view(len(x), -1))


class NamedArgument(Small):
    def forward(self, *, pixel_values):
        return super().forward(pixel_values)


class NamedArguments(Small):
    def forward(self, labels=None, **kwargs):
        return super().forward(kwargs["pixel_values"])


class WithTargets(Small):
    def forward(self, x, targets=None):
        logits = super().forward(x)
        return logits if targets is None else (logits, F.cross_entropy(logits, targets))


class TwoArguments(Small):
    def forward(self, x, tokens):
        return super().forward(x) + tokens


class Batch(Small):
    def forward(self, batch):
        return super().forward(batch["image"])


class Counting(Small):
    """Keeps a count and its last features, in Python and in a buffer."""

    def __init__(self):
        super().__init__()
        self.calls, self.last = 0, None
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.seen += len(x)
        self.last = super().forward(x)
        return self.last


class TrainingNorm(Small):
    def forward(self, x):
        self.norm.train()
        return super().forward(x)


class Drifting(Small):
    """A cache that grows into what comes next, as of a recurrent network."""

    state = 0.0

    def forward(self, x):
        self.state = self.state + 1.0
        return super().forward(x) * self.state


class Locked(Small):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class Extra(Small):
    def get_extra_state(self):
        return {"version": 3, "names": ("a", "b"), "when": object(), "table": torch.ones(2)}

    def set_extra_state(self, state):
        pass


class Tied(Small):
    def __init__(self):
        super().__init__(channels=3)
        self.third = nn.Conv2d(6, 8, 3, padding=1)
        self.third.weight = self.second.weight

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        return self.head((self.second(x) + self.third(x)).mean((2, 3)))


class Branching(Small):
    """Control flow that depends on data."""

    def forward(self, x):
        return super().forward(x if float(x.mean()) > 0.2 else x + 0.1)


def scripted(freeze=False):
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(torch.relu(self.second(torch.relu(self.first(x)))).mean((2, 3)))

    net = torch.jit.trace(Plain().eval(), torch.zeros(2, 3, SIZE, SIZE))
    return torch.jit.freeze(net) if freeze else net


def exported(dynamic=False):
    shapes = ({0: torch.export.Dim.AUTO},) if dynamic else None
    return torch.export.export(Small().eval(), (torch.zeros(2, 3, SIZE, SIZE),), dynamic_shapes=shapes).module()


def half_of_it(change):
    def make():
        net = Small()
        change(net.second)
        return net

    return make


def lazy():
    net = Small()
    net.head = nn.LazyLinear(3)
    return net


def hooked():
    net = Small()
    net.second.register_forward_hook(lambda module, args, output: output * 2)
    net.register_forward_pre_hook(lambda module, args: (args[0] - 0.1,))
    return net


def spoilt():
    net = Small()
    net.head.bias.data.fill_(float("nan"))
    return net


def holding(leaf):
    """A network that holds a tensor of a gradient's graph, which cannot be copied."""
    net = Small()
    net.memory = leaf * 2
    return net


Pair = namedtuple("Pair", ["logits", "aux"])
Result = make_dataclass("Result", ["loss", "scores", "features"])


@dataclass(frozen=True)
class Kind:
    """A kind of network.

    Attributes:
        make: makes one.
        warns: a pattern of the warning that it deserves; nothing is said if None.
        fails: a pattern of the sentence that an edit of it ends in; it works if None.
        classes: names of its classes.
        may_fail: calls that may end in a sentence although an edit works.
    """

    make: Callable[[], nn.Module]
    warns: str | None = None
    fails: str | None = None
    classes: tuple[str, ...] = tuple(CLASSES)
    may_fail: tuple[str, ...] = ()


def boxes() -> Iterator[tuple[str, Kind]]:
    """Logits in every box that holds them once, or names them."""
    for name, box in {
        "a tuple": lambda z: (z, None),
        "a tuple with features": lambda z: (z, z.new_zeros(len(z), 8)),
        "a list": lambda z: [z],
        "a dict": lambda z: {"logits": z},
        "a dict by another name": lambda z: {"main": z, "features": z.new_zeros(len(z), 8, 4, 4)},
        "a dict of two tables": lambda z: {"aux": z / 2, "out": z},
        "a named tuple": lambda z: Pair(z, z / 2),
        "a dataclass": lambda z: Result(None, z, None),
        "a namespace": lambda z: SimpleNamespace(logits=z, loss=None),
        "boxes in boxes": lambda z: ({"output": [z]}, {}),
    }.items():
        yield f"returns {name}", Kind(around(lambda net, x, box=box: box(net(x))))


KINDS: dict[str, Kind] = {
    "plain": Kind(Small),
    "view after a map": Kind(Flat),
    **dict(boxes()),
    # what it is called with
    "optional targets": Kind(WithTargets),
    "an argument that must be named": Kind(NamedArgument),
    "other arguments": Kind(TwoArguments, fails="batch of images and nothing else"),
    "a batch as a dict": Kind(Batch, fails="batch of images and nothing else"),
    "its arguments hidden": Kind(NamedArguments, fails="batch of images and nothing else"),
    "another input size": Kind(lambda: Flat(32), fails=r"its head \(Linear\) raised .*check the input size"),
    "one channel": Kind(lambda: Small(channels=1), fails="takes 1 channels"),
    "writes into its input": Kind(lambda: Small(before=lambda x: x.sub_(0.5).div_(0.5))),
    "as_strided": Kind(
        lambda: Small(before=lambda x: x.as_strided(x.shape, torch.empty(x.shape).stride())), warns="as_strided"
    ),
    # what it returns
    "returns nothing": Kind(lambda: Small(after=lambda z: None), fails="return the logits"),
    "returns a word": Kind(lambda: Small(after=lambda z: "red"), fails="return the logits"),
    "returns two tables": Kind(lambda: Small(after=lambda z: (z, z)), fails="the one that counts"),
    "returns maps": Kind(lambda: Small(after=lambda z: z[:, :, None, None]), fails="a head that classifies"),
    "returns tokens": Kind(lambda: Small(after=lambda z: z[:, None]), fails="a head that classifies"),
    "drops the batch": Kind(lambda: Small(after=lambda z: z.squeeze()), fails="drops the axis of a batch of one"),
    "other classes": Kind(lambda: Small(classes=4), fails=r"\(1, 4\); check the class names"),
    "NaN": Kind(spoilt, warns="NaN", may_fail=("rewrite", "finetune")),
    "raises": Kind(lambda: Small(after=lambda z: 1 // 0), fails="ZeroDivisionError"),
    # ends
    "softmax": Kind(lambda: Small(after=lambda z: z.softmax(1)), warns="ends in a softmax"),
    "softmax by hand": Kind(lambda: Small(after=lambda z: z.exp() / z.exp().sum(1, True)), warns="ends in a softmax"),
    "log_softmax": Kind(lambda: Small(after=lambda z: z.log_softmax(1))),
    "sigmoid": Kind(lambda: Small(after=torch.sigmoid), warns="ends in a sigmoid"),
    "relu": Kind(lambda: Small(after=torch.relu)),
    "temperature": Kind(lambda: Small(after=lambda z: z / 1.7)),
    "cosines": Kind(lambda: Small(after=lambda z: F.normalize(z, dim=1))),
    "one logit for two": Kind(lambda: Small(classes=1), warns="one number", classes=("no", "yes")),
    "one share for two": Kind(
        lambda: Small(classes=1, after=lambda z: z.sigmoid().squeeze(1)), warns="one number", classes=("no", "yes")
    ),
    # moods
    "dropout that stays": Kind(lambda: Small(between=F.dropout), warns="two passes differ"),
    "dropout that stays at the end": Kind(lambda: Small(after=F.dropout), warns="two passes differ"),
    "batch norm in training": Kind(TrainingNorm, warns="stay as it is", may_fail=("apply", "applied", "evaluate")),
    "softmax over the batch": Kind(lambda: Small(after=lambda z: z.softmax(0)), warns="other images"),
    "counts in a buffer": Kind(Counting, warns="changes its seen", may_fail=("apply", "applied", "evaluate")),
    "drifts": Kind(Drifting, warns="two passes differ"),
    "branches on data": Kind(Branching),
    # surroundings
    "autocast": Kind(within(lambda: torch.autocast("cpu", dtype=torch.bfloat16))),
    "no_grad inside": Kind(within(torch.no_grad), may_fail=("finetune",)),
    "inference_mode inside": Kind(within(torch.inference_mode), may_fail=("finetune",)),
    "checkpointing": Kind(around(lambda net, x: checkpoint(net, x, use_reentrant=False)), may_fail=("finetune",)),
    "hooks of its own": Kind(hooked),
    "double precision": Kind(lambda: Small().double()),
    "bfloat16": Kind(lambda: Small().bfloat16()),
    "half precision": Kind(lambda: Small().half()),
    "channels_last weights": Kind(lambda: Small().to(memory_format=torch.channels_last)),
    "two types": Kind(half_of_it(lambda layer: layer.double()), fails="convert the whole network"),
    "no gradients": Kind(lambda: Small().requires_grad_(False)),
    # weights
    "on meta": Kind(lambda: Small().to("meta"), fails="load its weights first"),
    "half on meta": Kind(half_of_it(lambda layer: layer.to("meta")), fails="load its weights first"),
    "lazy": Kind(lazy, fails="in a first pass"),
    "parametrised": Kind(half_of_it(parametrizations.weight_norm), fails="computed from other parameters"),
    "pruned": Kind(half_of_it(lambda layer: prune.l1_unstructured(layer, "weight", 0.5)), fails="computed from other"),
    "spectral norm of old": Kind(half_of_it(nn.utils.spectral_norm), fails="computed from other"),
    "tied": Kind(Tied, fails="shares its weight"),
    "states that are no tensors": Kind(Extra),
    "quantised head": Kind(
        lambda: torch.ao.quantization.quantize_dynamic(Small().eval(), {nn.Linear}, dtype=torch.qint8),
        may_fail=("finetune",),
    ),
    "a lock": Kind(Locked, may_fail=("apply",)),
    "a tensor of a graph": Kind(lambda: holding(torch.ones(2, requires_grad=True)), may_fail=("apply",)),
    # not quite networks
    "compiled": Kind(lambda: torch.compile(Small(), backend="eager")),
    "compiled inside": Kind(half_of_it(lambda layer: layer.compile(backend="eager"))),
    "parallel": Kind(lambda: nn.DataParallel(Small())),
    "of torch.fx": Kind(lambda: torch.fx.symbolic_trace(Small().eval())),
    "exported": Kind(exported, fails="that it was exported from"),
    "exported for any batch": Kind(lambda: exported(dynamic=True), fails="that it was exported from"),
    "traced": Kind(scripted, fails="scripted"),
    "frozen": Kind(lambda: scripted(freeze=True), fails="scripted"),
}


def model_of(kind: Kind) -> Classifier:
    torch.manual_seed(0)
    net = kind.make()
    if not isinstance(net, torch.fx.GraphModule | torch.jit.ScriptModule):
        net.eval()
    return Classifier(net, Preprocess((SIZE, SIZE)), kind.classes, "my net")


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))


def pictures(count: int) -> ImageSet:
    return ImageSet(tuple(Picture(picture(i), i % 2) for i in range(count)), "noise")


def exemplar() -> rp.Exemplar:
    mask = np.zeros((SIZE, SIZE), dtype=np.float32)
    mask[4:10, 6:12] = 1
    image = np.asarray(picture(90))
    edited = np.where(mask[..., None] > 0, np.asarray(picture(91)) // 2, image)
    return rp.Exemplar(Image.fromarray(image), Image.fromarray(edited.astype(np.uint8)), mask)


class Outcome:
    """What every public call makes of a kind of network."""

    def __init__(self, kind: Kind) -> None:
        self.errors: dict[str, Exception] = {}
        self.values: dict[str, Any] = {}
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            self.try_all(model_of(kind))
        said = {str(each.message) for each in found if each.category is RulepatchWarning}
        self.said = sorted(each for each in said if "exemplar" not in each)  # of noise, which show no failure

    def try_all(self, model: Classifier) -> None:
        reference, quiet = pictures(12), {"cache": None, "progress": False}
        site = next((path for path, _ in model.module.named_modules() if path.endswith("second")), "second")
        settings = {"reference": reference, "site": site, **quiet}
        pixels = torch.stack([model.preprocess.pixels(each.read()) for each in reference.pictures])
        site_list = self.attempt("sites", lambda: find_sites(model.module, model.example()))
        self.attempt("logits", lambda: model.logits(model.inputs(pixels)).detach())
        self.attempt("digest", lambda: base_digest(model.module))
        if site_list is not None and site_list.sites:
            self.attempt("statistics", lambda: key_statistics(model, reference, site_list.sites[:1], **quiet))
        edit = self.attempt("rewrite", lambda: rp.rewrite(model, [exemplar()], gate=None, **settings))
        finetune = front("finetune-local")
        self.attempt("finetune", lambda: finetune(model, [exemplar()], steps=2, **settings))
        if edit is not None:
            self.attempt("apply", lambda: edit.apply(model).logits(model.inputs(pixels)).detach())
            self.attempt("applied", lambda: self.applied(edit, model, pixels))
            self.attempt("evaluate", lambda: rp.evaluate(model, edit, tests=reference, progress=False))

    @staticmethod
    def applied(edit, model, pixels):
        with edit.applied(model) as edited:
            return edited.logits(model.inputs(pixels)).detach()

    def attempt(self, name, function):
        try:
            self.values[name] = function()
        except Exception as error:
            self.errors[name] = error
        return self.values.get(name)


@pytest.fixture(scope="module")
def plain():
    return Outcome(KINDS["plain"])


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_every_public_call_works_or_ends_in_a_sentence(name):
    kind = KINDS[name]
    outcome = Outcome(kind)
    for call, error in outcome.errors.items():
        assert isinstance(error, RulepatchError), f"{call}: {type(error).__name__}: {error}"
        assert "\n" not in str(error) and "; " in str(error), f"{call}: {error}"
    if kind.fails is None:
        assert outcome.errors.keys() <= {*kind.may_fail}, outcome.errors
        assert not torch.equal(outcome.values["logits"], outcome.values.get("applied", torch.zeros(())))
    else:
        assert re.search(kind.fails, str(outcome.errors["rewrite"])), outcome.errors["rewrite"]
    if kind.warns is None:
        assert not outcome.said
    else:
        assert len(outcome.said) == 1 and re.search(kind.warns, outcome.said[0]), outcome.said


@pytest.mark.parametrize("name", [name for name in KINDS if name.startswith("returns") and KINDS[name].fails is None])
def test_logits_in_a_box_are_edited_like_bare_ones(name, plain):
    outcome = Outcome(KINDS[name])
    for call in ("logits", "apply", "applied"):
        assert torch.equal(outcome.values[call], plain.values[call])


@pytest.mark.parametrize("name", ["softmax", "softmax by hand", "log_softmax"])
def test_confidences_are_those_of_the_network_whatever_it_ends_in(name, plain):
    outcome = Outcome(KINDS[name])
    for call in ("logits", "apply", "applied"):
        expected = plain.values[call].softmax(dim=1)
        torch.testing.assert_close(outcome.values[call].softmax(dim=1), expected, rtol=1e-4, atol=1e-6)


def test_a_sigmoid_is_undone(plain):
    expected = plain.values["logits"]
    torch.testing.assert_close(Outcome(KINDS["sigmoid"]).values["logits"], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("end", ["softmax", "sigmoid"])
def test_shares_of_nothing_and_all_stay_finite_and_in_order(end):
    shares = torch.tensor([[0.0, 1.0, 0.0], [1e-30, 0.25, 0.75]])
    logits = as_logits(shares, end, 3)
    assert logits.isfinite().all() and (logits.argmax(dim=1) == shares.argmax(dim=1)).all()


def test_one_number_for_two_classes_is_the_logit_of_the_second():
    one = model_of(KINDS["one logit for two"])
    with pytest.warns(RulepatchWarning, match="that of yes against no"):
        inputs = one.inputs(torch.rand(4, 3, SIZE, SIZE))
    with torch.no_grad():
        logits, number = one.logits(inputs), one.module(inputs)
    torch.testing.assert_close(logits.softmax(dim=1)[:, 1:], number.sigmoid())


def test_an_edit_under_autocast_is_that_of_the_network_itself_up_to_rounding(plain):
    outcome = Outcome(KINDS["autocast"])
    change, expected = (each.values["applied"] - each.values["logits"] for each in (outcome, plain))
    assert float((change - expected).norm() / expected.norm()) < 0.2


@pytest.mark.parametrize(
    "name", ["plain", "raises", "returns a dataclass", "quantised head", "branches on data", "exported", "one channel"]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of torch's quantisation
def test_an_export_is_written_or_ends_in_a_sentence(name, tmp_path, capfd):
    model = model_of(KINDS[name])
    try:
        export(model, tmp_path / "net.pt2")
        assert name in {"plain", "returns a dataclass"}
    except RulepatchError as error:
        assert name not in {"plain", "returns a dataclass"} and "; " in str(error)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        ({"weight": torch.ones(1)}, "a state dict"),
        (Small, "the class Small"),
        (None, "NoneType"),
        (lambda x: x, "function"),
    ],
)
def test_what_is_no_network_is_refused(thing, words):
    with pytest.raises(ModelError, match=words):
        Classifier(thing, Preprocess((SIZE, SIZE)), CLASSES)


def test_an_exported_program_is_refused():
    program = torch.export.export(Small().eval(), (torch.zeros(2, 3, SIZE, SIZE),))
    with pytest.raises(ModelError, match="that it was exported from"):
        Classifier(program, Preprocess((SIZE, SIZE)), CLASSES)


# The first pass


ORDINARY: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: torchvision.models.resnet18(num_classes=3),
    "mobilenet": lambda: torchvision.models.mobilenet_v3_small(num_classes=3),
    "squeezenet": lambda: torchvision.models.squeezenet1_1(num_classes=3),
    "shufflenet": lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=3),
    "densenet": lambda: torchvision.models.DenseNet(8, (2, 2), 16, num_classes=3),
    "googlenet": lambda: torchvision.models.googlenet(num_classes=3, init_weights=False),
    "vision transformer": lambda: torchvision.models.VisionTransformer(64, 16, 2, 2, 32, 64, num_classes=3),
    "swin": lambda: torchvision.models.SwinTransformer([4, 4], 12, [2, 2], [2, 2], [4, 4], num_classes=3),
    "efficientnet": lambda: timm.create_model("test_efficientnet", num_classes=3),
    "convnext": lambda: timm.create_model("test_convnext", num_classes=3),
    "tf padding": lambda: timm.create_model("mobilenetv2_035", pad_type="same", num_classes=3),
    "nasnet padding": lambda: timm.create_model("mnasnet_small", num_classes=3),
    "a mixer": lambda: timm.models.MlpMixer(3, 64, patch_size=16, num_blocks=2, embed_dim=32),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_nothing_is_said_of_ordinary_networks(name):
    model = Classifier(ORDINARY[name]().eval(), Preprocess((64, 64)), CLASSES)  # a warning would be an error
    assert model.first_pass.end == "logits"
    site_list = find_sites(model.module, model.example())
    places = [each for site in site_list.sites for each in (site.key_places, site.output_places, site.value_places)]
    assert site_list.lost is None and all(each is None or each.frame is None for each in places)


def test_the_layout_is_the_one_that_the_network_runs_with():
    plain, flat, strided = (model_of(KINDS[name]) for name in ("plain", "view after a map", "as_strided"))
    assert plain.first_pass.layout == torch.channels_last
    assert flat.first_pass.layout == strided.first_pass.layout == torch.contiguous_format
    for model in (plain, flat, strided):
        assert model.inputs(torch.rand(2, 3, SIZE, SIZE)).is_contiguous(memory_format=model.first_pass.layout)


def test_a_classifier_looks_at_its_network_once_and_so_do_those_made_of_it():
    counting = Counted()
    model = Classifier(counting, Preprocess((SIZE, SIZE)), CLASSES)
    for _ in range(3):
        model.inputs(torch.rand(2, 3, SIZE, SIZE))
        model.with_module(counting, ["new"]).inputs(torch.rand(2, 3, SIZE, SIZE))
    assert counting.pictures == 3


class Counted(Small):
    pictures = 0

    def forward(self, x):
        self.pictures += len(x)
        return super().forward(x)


def test_a_network_for_several_labels_is_told_of():
    net = Small()
    net.config = SimpleNamespace(problem_type="multi_label_classification")
    with pytest.warns(RulepatchWarning, match="several labels"):
        Classifier(net.eval(), Preprocess((SIZE, SIZE)), CLASSES).example()


def test_inputs_are_as_they_were_after_a_pass_that_writes_into_them():
    model = model_of(KINDS["writes into its input"])
    inputs = model.inputs(torch.rand(2, 3, SIZE, SIZE))
    kept = inputs.clone()
    with torch.no_grad():
        first, second = model.logits(inputs), model.logits(inputs)
    assert torch.equal(inputs, kept) and torch.equal(first, second)

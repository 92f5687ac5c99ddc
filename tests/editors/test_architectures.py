"""The contract over families of architectures: what is listed as a site can be edited, and taken back, exactly.

Weights are random and images small: what is shown is that sites, values and solves are right, not that edits help.
"""

import copy
import warnings

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision import models as torchvision_models

from rulepatch.core import linalg
from rulepatch.core.edit import Edit, base_digest
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet
from rulepatch.editors.edit import solve
from rulepatch.methods import Rewrite
from rulepatch.models.attention import call_projections
from rulepatch.models.classifier import Classifier
from rulepatch.models.open_clip_models import ZeroShot
from rulepatch.models.preprocess import Preprocess
from rulepatch.tracing.sites import find_sites
from tests.fixtures.solving import problem_at, solved

CLASSES = 4
SAMPLE = 3
"""Sites of each architecture that are edited: the first, the last that sees places, and one between them."""

TORCHVISION = {
    "alexnet": {}, "vgg11": {}, "vgg11_bn": {}, "resnet18": {}, "resnet50": {}, "resnext50_32x4d": {},
    "densenet121": {}, "squeezenet1_1": {}, "mobilenet_v2": {}, "mobilenet_v3_small": {}, "efficientnet_b0": {},
    "convnext_tiny": {}, "regnet_x_400mf": {}, "regnet_y_400mf": {}, "shufflenet_v2_x0_5": {}, "mnasnet0_5": {},
    "vit_b_16": {}, "swin_t": {"embed_dim": 12}, "swin_v2_t": {"embed_dim": 12},
}  # fmt: skip
TIMM = {
    "test_vit": {"img_size": 64}, "test_vit2": {"img_size": 64}, "test_vit3": {"img_size": 64},
    "test_vit4": {"img_size": 64},
    "test_convnext": {}, "test_convnext2": {}, "test_resnet": {}, "test_efficientnet": {}, "test_efficientnet_gn": {},
    "test_efficientnet_ln": {}, "test_byobnet": {}, "test_mambaout": {},
    "vit_tiny_patch16_224": {"img_size": 64, "reg_tokens": 2, "depth": 2},
    "deit_tiny_distilled_patch16_224": {"img_size": 64, "depth": 2},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 4, "embed_dim": 12, "num_heads": (2, 2, 2, 2)},
    "convnextv2_atto": {}, "seresnet18": {}, "resnet10t": {}, "mobilenetv3_small_050": {}, "repvgg_a0": {},
    "ghostnet_050": {}, "pvt_v2_b0": {}, "poolformer_s12": {}, "edgenext_xx_small": {}, "mobilevitv2_050": {},
    "mixer_s32_224": {"img_size": 64},
}  # fmt: skip
QUICK = {"timm/test_resnet", "timm/test_vit", "timm/test_convnext", "huggingface/vit"}


def of_torchvision(name, settings):
    if name.startswith("swin"):
        make = torchvision_models.SwinTransformer
        block = {}
        if name == "swin_v2_t":
            from torchvision.models import swin_transformer

            block = {
                "block": swin_transformer.SwinTransformerBlockV2,
                "downsample_layer": swin_transformer.PatchMergingV2,
            }
        return make([4, 4], 12, [2, 2], [2, 2], [4, 4], num_classes=CLASSES, **block)
    if name == "vit_b_16":
        return call_projections(torchvision_models.VisionTransformer(64, 16, 2, 2, 16, 32, num_classes=CLASSES))
    if name == "convnext_tiny":
        blocks = [torchvision_models.convnext.CNBlockConfig(*widths, 1) for widths in [(8, 16), (16, 32), (32, None)]]
        return torchvision_models.ConvNeXt(blocks, num_classes=CLASSES)
    if name == "densenet121":
        return torchvision_models.DenseNet(8, (2, 2, 2), 16, num_classes=CLASSES)
    if name.startswith(("vgg", "alexnet")):  # all but its heavy head
        net = torchvision_models.get_model(name, weights=None)
        channels = next(m.out_channels for m in reversed(net.features) if isinstance(m, torch.nn.Conv2d))
        net.avgpool, net.classifier = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Linear(channels, CLASSES)
        return net
    return torchvision_models.get_model(name, weights=None, num_classes=CLASSES, **settings)


def of_huggingface(name):
    import transformers

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    configs = {
        "vit": lambda: transformers.ViTConfig(image_size=64, patch_size=16, num_labels=CLASSES, **sizes),
        "dinov2": lambda: transformers.Dinov2Config(image_size=64, patch_size=16, num_labels=CLASSES, **sizes),
        "convnext": lambda: transformers.ConvNextConfig(
            hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_labels=CLASSES
        ),
        "resnet": lambda: transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=CLASSES
        ),
        "swin": lambda: transformers.SwinConfig(
            image_size=64, embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=4, num_labels=CLASSES
        ),
    }  # fmt: skip
    return transformers.AutoModelForImageClassification.from_config(configs[name]())


def of_open_clip(name):
    """CLIP's image towers, with the head that class names make."""
    open_clip = pytest.importorskip("open_clip")
    layers = {"RN": (1, 1, 1, 1), "ViT": 2}[name]
    vision = open_clip.CLIPVisionCfg(layers=layers, width=32, head_width=16, patch_size=16, image_size=64)
    text = open_clip.CLIPTextCfg(context_length=8, vocab_size=16, width=16, heads=2, layers=1)
    tower = open_clip.CLIP(16, vision, text).visual
    return ZeroShot(call_projections(tower), features=16, classes=CLASSES)


NAMES = [
    *(f"torchvision/{name}" for name in TORCHVISION),
    *(f"timm/{name}" for name in TIMM),
    *(f"huggingface/{name}" for name in ("vit", "dinov2", "convnext", "resnet", "swin")),
    *(f"open_clip/{name}" for name in ("RN", "ViT")),
]


def build(name):
    source, _, short = name.partition("/")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if source == "torchvision":
            net = of_torchvision(short, TORCHVISION[short])
        elif source == "timm":
            net = timm.create_model(short, num_classes=CLASSES, **TIMM[short])
        elif source == "open_clip":
            net = of_open_clip(short)
        else:
            net = of_huggingface(short)
    return net


@pytest.fixture(params=[pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES])
def model(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build(request.param).eval().requires_grad_(False).double()
        for path, parameter in net.named_parameters():
            if parameter.abs().max() < 1e-3:  # made zero, or a layer scale near it: an edit behind it would do nothing
                parameter.data += 0.1 * torch.randn_like(parameter)
            if path.endswith("bias"):
                parameter.data += 0.1 * torch.randn_like(parameter)
        calibrate(net)
    return Classifier(net, Preprocess((64, 64)), [f"class {i}" for i in range(CLASSES)], request.param)


def calibrate(net):
    """Let batch norms see some images, as in training: else signals of random networks die out on their way."""
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        net(torch.randn(8, 3, 64, 64, dtype=torch.float64))
    net.eval()


def noise(seed):
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def exemplars():
    mask = np.zeros((64, 64), dtype=np.float32)
    mask[16:56, 8:48] = 1
    made = []
    for seed in (1, 2):
        image, texture = noise(seed), noise(seed + 100) // 3 + 150
        edited = np.where(mask[..., None] > 0, texture, image).astype(np.uint8)
        made.append(Exemplar(Image.fromarray(image), Image.fromarray(edited), mask))
    return made


def sampled(site_list):
    spatial = [site.path for site in site_list.sites if site.is_spatial]
    return list(dict.fromkeys([spatial[0], spatial[len(spatial) // 2], spatial[-1]]))[:SAMPLE]


def gradient_left(problem, seen, found, reading):
    """Gradient of the objective, through the layer with its changed weight, relative to that without an edit."""
    layer, keys = copy.deepcopy(seen.layer).double(), seen.keys.double()
    head, head_of_original = (each.route.to(dtype=torch.float64).split()[0] for each in (seen.edited, seen.original))
    target = head_of_original(seen.original.output.double())
    before = layer(keys).detach()
    places = seen.marked

    def gradient(coefficients):
        coefficients = coefficients.clone().requires_grad_()
        delta = linalg.low_rank(coefficients, reading.directions).reshape(layer.weight.shape)
        with torch.enable_grad():
            changed = torch.func.functional_call(layer, {"weight": layer.weight.detach() + delta}, (keys,))
            lacking = target - head(seen.edited.output.double() + changed - before)
            (back,) = torch.autograd.grad(lacking.square().sum(), changed, create_graph=True)
            axis = 1 if seen.site.kind == "conv" else back.ndim - 1
            weighted = back.detach().movedim(axis, -1).reshape(*places.shape, -1) * seen.output_weights[..., None]
            laid = weighted.reshape(back.movedim(axis, -1).shape).movedim(-1, axis)
            return torch.autograd.grad((laid * changed).sum(), coefficients)[0]

    return float(gradient(found).norm() / gradient(torch.zeros_like(found)).norm())


def test_listed_sites_are_edited_and_taken_back(model, tmp_path):
    reference = ImageSet.of([Image.fromarray(noise(seed)) for seed in range(10, 16)], model.classes)
    site_list = find_sites(model.module, model.example())
    inputs = model.inputs(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3)))
    before, digest = model.logits(inputs), base_digest(model.module)
    for path in sampled(site_list):
        how = Rewrite(gate=None, steps=5)
        problem = problem_at(model, exemplars(), reference, path, how)
        edit = solve(problem, how)
        edit.save(tmp_path / "edit.safetensors")
        loaded = Edit.load(tmp_path / "edit.safetensors")
        with edit.applied(model.module):
            after = model.logits(inputs)
        assert not torch.equal(after, before), path
        assert base_digest(model.module) == digest and torch.equal(model.logits(inputs), before), path
        torch.testing.assert_close(loaded.apply(model).logits(inputs), after, rtol=1e-4, atol=1e-5)
        seen = problem.observations[0]
        if seen.site.exact:
            reading = solved(problem, how.but(ridge=0))
            assert gradient_left(problem, seen, reading.coefficients, reading) < 1e-6, path


def test_the_matrix_is_as_wide_as_it_says():
    assert len(NAMES) >= 30

"""Where models can be edited, and where the effect is matched: found by following the graph."""

import warnings

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from rulepatch.errors import SiteError
from rulepatch.models.registry import load_skeleton
from rulepatch.tracing.sites import clone_with_weight, find_sites, flatten_positions, unfold


def value_points(model: nn.Module, size: int = 64) -> dict[str, str]:
    site_list = find_sites(model.eval(), torch.zeros(1, 3, size, size))
    return {site.path: site.value_point for site in site_list.sites}


def test_value_points_of_the_small_network(net):
    site_list = find_sites(net, torch.zeros(1, 3, 16, 16))
    assert {site.path: site.value_point for site in site_list.sites} == {
        "0.0": "0.3",
        "1.conv1": "1.relu",
        "1.conv2": "1",
        "2.0": "2.2",
        "3.conv": "3",  # its gate depends on all channels
        "3.squeeze": "3.squeeze",
        "6": "6",
    }
    assert [site.path for site in site_list.sites if not site.exact] == ["3.conv"]
    first = site_list.sites[0]
    assert (first.kind, first.shape, first.stride, first.positions) == ("conv", (8, 3, 3, 3), (1, 1), (16, 16))
    assert site_list.site("6").shape == (5, 12, 1, 1) and site_list.site("6").positions == ()


@pytest.mark.slow
def test_the_papers_sites_come_out_by_themselves():
    """VGG: after batch norm, ReLU and pool; ResNet: after the skip sum and ReLU (paper 2.2, A.1)."""
    vgg = value_points(torchvision.models.vgg11_bn(num_classes=5))
    assert vgg["features.25"] == "features.28" and vgg["features.22"] == "features.24"
    resnet = value_points(torchvision.models.resnet50(num_classes=5))
    assert resnet["layer4.2.conv3"] == "layer4.2" and resnet["layer4.0.downsample.0"] == "layer4.0"
    assert resnet["layer4.2.conv1"] == "layer4.2.relu" and resnet["conv1"] == "maxpool"


@pytest.mark.slow
def test_value_points_of_other_families():
    mobilenet = value_points(torchvision.models.mobilenet_v2(width_mult=0.25))
    assert mobilenet["features.3.conv.2"] == "features.3"  # residual
    assert mobilenet["features.17.conv.2"] == "features.17.conv.3"  # no residual
    assert mobilenet["features.18.0"] == "features.18.2"
    squeezenet = value_points(torchvision.models.squeezenet1_1())
    assert squeezenet["features.12.expand3x3"] == "features.12.expand3x3_activation"
    transformer = value_points(timm.create_model("test_vit", num_classes=5), 160)
    assert transformer["blocks.1.mlp.fc1"] == "blocks.1.mlp.act" and transformer["blocks.1.mlp.fc2"] == "blocks.1"
    convnext = find_sites(timm.create_model("test_convnext").eval(), torch.zeros(1, 3, 64, 64))
    assert convnext.site("stages.3.blocks.0.mlp.fc2").value_point == "stages.3.blocks.0"
    densenet = value_points(torchvision.models.DenseNet(8, (2, 2), 16))
    assert densenet["features.denseblock1.denselayer1.conv2"] == "features.denseblock1.denselayer1.conv2"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shortcuts"),
    [
        ("torchvision/resnet18", [f"layer{i}.0.downsample.0" for i in (2, 3, 4)]),
        ("torchvision/resnet50", [f"layer{i}.0.downsample.0" for i in (1, 2, 3, 4)]),
        ("timm/resnetv2_50", [f"stages.{i}.blocks.0.downsample.conv" for i in range(4)]),
        ("torchvision/regnet_y_400mf", [f"trunk_output.block{i}.block{i}-0.proj.0" for i in (1, 2, 3, 4)]),
        ("timm/res2net50_26w_4s", [f"layer{i}.0.downsample.0" for i in (1, 2, 3, 4)]),
        ("torchvision/squeezenet1_0", []), ("torchvision/inception_v3", []), ("torchvision/googlenet", []),
        ("timm/mobilenetv2_100", []), ("torchvision/densenet121", []), ("torchvision/shufflenet_v2_x1_0", []),
        ("torchvision/vit_b_16", []), ("timm/vgg11", []),
    ],
)  # fmt: skip
def test_shortcuts_are_known_by_what_they_read_and_where_they_end(name, shortcuts):
    skeleton = load_skeleton(name)
    site_list = find_sites(skeleton.module, skeleton.example())
    assert [site.path for site in site_list.sites if site_list.is_shortcut(site)] == shortcuts


def test_sites_are_found_without_weights():
    with torch.device("meta"):
        model = torchvision.models.resnet18()
    site_list = find_sites(model, torch.zeros(1, 3, 224, 224, device="meta"))
    assert len(site_list.sites) == 21 and site_list.site("layer4.1.conv2").positions == (7, 7)


class Standardised(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight / self.weight.std(), self.bias)


class Refused(nn.Module):
    def __init__(self):
        super().__init__()
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
        self.grouped = nn.Conv2d(4, 4, 1, groups=2)
        self.idle = nn.Conv2d(4, 4, 1)
        self.twice = nn.Conv2d(4, 4, 1)
        self.tied = nn.Conv2d(4, 4, 1)
        self.partner = nn.Conv2d(4, 4, 1)
        self.partner.weight = self.tied.weight
        self.normed = weight_norm(nn.Conv2d(4, 4, 1))
        self.standardised = Standardised(4, 4, 1)
        self.read_by_others = nn.Linear(6, 6)
        self.whole_numbers = nn.Linear(8, 8)
        self.whole_numbers.weight = nn.Parameter(torch.ones(8, 8, dtype=torch.int8), requires_grad=False)
        self.sound = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.standardised(self.grouped(self.depthwise(x)))
        x = F.linear(x, self.read_by_others.weight)
        return self.sound(self.normed(self.partner(self.tied(self.twice(self.twice(x))))))


def test_layers_that_cannot_be_edited_are_listed_with_the_reason():
    site_list = find_sites(Refused(), torch.zeros(1, 4, 8, 8))
    assert [site.path for site in site_list.sites] == ["sound"]
    reasons = {refusal.path: refusal.reason for refusal in site_list.refused}
    assert reasons == {
        "depthwise": "depthwise",
        "grouped": "2 groups",
        "idle": "the forward pass never calls it",
        "twice": "the forward pass calls it 2 times",
        "tied": "it shares its weight with partner.weight",
        "partner": "it shares its weight with tied.weight",
        "normed": "its weight is computed from other parameters",
        "standardised": "its weight is changed before it is used",
        "read_by_others": "the model reads its weight without calling it",
        "whole_numbers": "its weight is no plain tensor of floating-point numbers (int8)",
    }
    with pytest.raises(SiteError, match="depthwise"):
        site_list.site("depthwise")


def test_quantised_and_scripted_layers_are_listed_with_the_reason():
    small = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both are on their way out
        mixed = nn.Sequential(torch.jit.script(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())), *small)
        dynamic = torch.ao.quantization.quantize_dynamic(small, {nn.Linear}, dtype=torch.qint8)
    site_list = find_sites(mixed, torch.zeros(1, 3, 8, 8))
    assert [site.path for site in site_list.sites] == ["1", "4"]
    assert {refused.path: refused.reason for refused in site_list.refused} == {"0.0": "scripted"}
    with pytest.raises(SiteError, match="scripted"):
        find_sites(mixed[0], torch.zeros(1, 3, 8, 8))
    site_list = find_sites(dynamic, torch.zeros(1, 3, 8, 8))
    assert [site.path for site in site_list.sites] == ["0"]
    assert {refused.path: refused.reason for refused in site_list.refused} == {"3": "quantised"}


def test_unknown_sites_name_the_nearest(net):
    site_list = find_sites(net, torch.zeros(1, 3, 16, 16))
    with pytest.raises(SiteError, match=r"1\.conv3.*nearest are 1\.conv"):
        site_list.site("1.conv3")
    with pytest.raises(SiteError, match="value point"):
        site_list.site("1.conv2", value_point="nowhere")


def test_value_points_can_be_set_by_hand(net):
    site_list = find_sites(net, torch.zeros(1, 3, 16, 16))
    near = site_list.site("1.conv2", value_point="1.bn2")
    assert near.value_point == "1.bn2" and near.exact
    far = site_list.site("1.conv2", value_point="2.2")
    assert far.value_point == "2.2" and not far.exact


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": 1},
        {"stride": 2, "padding": 2},
        {"dilation": 2},
        {"padding": "same"},
        {"padding": 1, "padding_mode": "reflect"},
    ],
)
def test_patches_are_what_the_layers_kernel_sees(options):
    layer = nn.Conv2d(3, 4, (3, 5), bias=True, **options)
    images = torch.randn(2, 3, 9, 9)
    unfolded = unfold(layer, images)
    expected = flatten_positions(layer(images) - layer.bias[:, None, None], 1)
    assert torch.allclose(unfolded @ layer.weight.flatten(1).T, expected, atol=1e-5)


def test_patches_follow_a_subclass_with_padding_of_its_own():
    """Networks converted from TensorFlow pad at the bottom and right only."""

    class BottomRight(nn.Conv2d):
        def forward(self, x):
            return self._conv_forward(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias)

    layer = BottomRight(3, 4, 3, stride=2, bias=False)
    images = torch.randn(2, 3, 8, 8)
    unfolded = unfold(layer, images)
    assert torch.allclose(unfolded @ layer.weight.flatten(1).T, flatten_positions(layer(images), 1), atol=1e-5)


def test_patches_of_a_linear_layer_are_its_rows():
    tokens = torch.randn(2, 7, 5)
    assert torch.equal(unfold(nn.Linear(5, 3), tokens), tokens)


def test_with_weight_leaves_the_layer_alone():
    layer = nn.Conv2d(3, 4, 3)
    layer.register_forward_hook(lambda *_: None)
    before = layer.weight.clone()
    twin = clone_with_weight(layer, torch.zeros(2, 1, 3, 3))
    assert twin(torch.ones(1, 1, 5, 5)).shape == (1, 2, 3, 3) and twin.bias is None and not twin._forward_hooks
    assert torch.equal(layer.weight, before) and layer.bias is not None and len(layer._forward_hooks) == 1
    assert (layer.in_channels, layer.out_channels) == (3, 4)

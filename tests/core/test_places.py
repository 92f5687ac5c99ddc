"""Where positions lie in the picture, held against what a change of one cell of the picture changes."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from rulepatch.core import capture
from rulepatch.core.sites import find_sites, rows


class Registers(nn.Module):
    """Tokens of a picture that is wider than tall, register tokens behind them."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 8, 8)
        self.registers = nn.Parameter(torch.randn(1, 2, 8))
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens, self.registers.expand(len(x), -1, -1)], dim=1)
        tokens = tokens + self.second(torch.relu(self.first(tokens)))
        return self.head(tokens[:, :-2].mean(1))


class Patches(nn.Module):
    """Cuts a picture into patches by itself and never convolves."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(3 * 8 * 8, 6), nn.Linear(6, 5)

    def forward(self, x):
        n, _, h, w = x.shape
        cut = x.reshape(n, 3, h // 8, 8, w // 8, 8).permute(0, 2, 4, 1, 3, 5).reshape(n, -1, 192)
        return self.head(torch.relu(self.embed(cut)).mean(1))


class Mixing(nn.Module):
    """One layer of an MLP-mixer: a linear layer over the positions."""

    def __init__(self):
        super().__init__()
        self.embed, self.tokens, self.head = nn.Conv2d(3, 6, 8, 8), nn.Linear(16, 16), nn.Linear(6, 5)

    def forward(self, x):
        tokens = self.embed(x).flatten(2)
        return self.head((tokens + self.tokens(tokens)).mean(2))


def swin():
    return timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=64, window_size=4, embed_dim=12, depths=(2, 2), num_heads=(2, 2)
    )  # fmt: skip


NETWORKS = {
    "convolutions": (lambda: torchvision.models.resnet18(num_classes=5).requires_grad_(False), (64, 64)),
    "class token": (lambda: timm.create_model("test_vit", num_classes=5), (160, 160)),
    "class and register tokens": (
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, reg_tokens=3, depth=2), (64, 64)
    ),
    "not square, registers behind": (Registers, (16, 40)),
    "patches cut by hand": (Patches, (16, 32)),
    "shifted windows, merged by twos": (swin, (64, 64)),
    "shifted windows of torchvision": (
        lambda: torchvision.models.SwinTransformer([4, 4], 12, [2, 2], [2, 2], [4, 4], num_classes=5), (64, 64)
    ),
}  # fmt: skip


def only_local(net: nn.Module) -> nn.Module:
    """Silence every branch in which positions see each other, so that each sees its own part of the picture."""
    for path, parameter in net.named_parameters():
        if any(part in path for part in ("attn.proj", "fc2", "mlp.3")):
            parameter.data.zero_()
    return net


@pytest.mark.parametrize("name", NETWORKS)
def test_a_cell_of_the_picture_changes_the_positions_that_lie_in_it(name):
    make, (height, width) = NETWORKS[name]
    torch.manual_seed(0)
    net = only_local(make()).eval()
    picture = torch.rand(1, 3, height, width)
    checked = 0
    survey = find_sites(net, picture)
    for site in survey.sites:
        if site.path.endswith("attn.proj"):  # it reads what attention gathered from everywhere, for the same positions
            assert site.key_places == survey.site(site.path.replace("proj", "qkv")).key_places
            continue
        if not site.is_spatial or (name == "convolutions" and site.path != "layer1.0.conv1"):
            continue
        places, axis = site.key_places, site.output_axis
        rows_, columns = places.grid
        if name != "convolutions" and (height % rows_ or width % columns):
            continue
        cell = int(torch.randint(rows_ * columns, ()))
        tall, wide = height // rows_, width // columns
        top, left = cell // columns * tall, cell % columns * wide
        other = picture.clone()
        other[:, :, top : top + tall, left : left + wide] = torch.rand(1, 3, tall, wide)
        before, after = (rows(capture.keys_at(net, each, site.path), axis) for each in (picture, other))
        changed = (before != after).any(dim=-1).flatten()
        lies_there = torch.tensor(places.cells) == cell
        if name == "convolutions":  # they see beyond their cell
            assert bool(changed[lies_there].all()) and changed.sum() < len(changed) / 2, site.path
        else:
            assert torch.equal(changed, lies_there), site.path
        checked += 1
    assert checked


def test_tokens_that_are_none_of_the_picture_are_kept_apart():
    net = timm.create_model("vit_tiny_patch16_224", img_size=64, reg_tokens=3, depth=2)
    survey = find_sites(net, torch.zeros(1, 3, 64, 64))
    assert survey.site("blocks.0.mlp.fc1").layout == "4×4, 4 apart"
    assert survey.site("blocks.0.mlp.fc1").key_places.cells[:5] == (-1, -1, -1, -1, 0)
    assert not survey.site("head").is_spatial


def test_layers_that_mix_positions_are_refused():
    survey = find_sites(Mixing(), torch.zeros(1, 3, 32, 32))
    assert [site.path for site in survey.sites] == ["embed", "head"]
    assert {refused.path: refused.reason for refused in survey.refused} == {
        "tokens": "it mixes the positions of the picture"
    }


def test_scores_are_laid_over_the_picture():
    survey = find_sites(Registers(), torch.zeros(1, 3, 16, 40))
    places = survey.site("first").key_places
    scores = torch.arange(24.0).reshape(2, 12)
    assert torch.equal(places.lay_out(scores), scores[:, :10].reshape(2, 2, 5))
    windows = find_sites(swin(), torch.zeros(1, 3, 64, 64)).site("layers.0.blocks.1.attn.qkv").key_places
    cells = torch.tensor(windows.cells, dtype=torch.float32)[None]
    assert torch.equal(windows.lay_out(cells)[0].flatten(), torch.arange(256.0))

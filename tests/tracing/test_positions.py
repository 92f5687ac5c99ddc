"""Where positions lie in the image, held against what a change of one cell of the image changes."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from rulepatch.tracing import capture
from rulepatch.tracing.sites import find_sites, flatten_positions


class Registers(nn.Module):
    """Tokens of an image that is wider than tall, register tokens behind them."""

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
    """Cuts an image into patches by itself and never convolves."""

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
    """Silence every branch in which positions see each other, so that each sees its own part of the image."""
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
    site_list = find_sites(net, picture)
    for site in site_list.sites:
        if site.path.endswith("attn.proj"):  # it reads what attention gathered from everywhere, for the same positions
            assert site.key_places == site_list.site(site.path.replace("proj", "qkv")).key_places
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
        before, after = (flatten_positions(capture.input_of(net, each, site.path), axis) for each in (picture, other))
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
    site_list = find_sites(net, torch.zeros(1, 3, 64, 64))
    assert site_list.site("blocks.0.mlp.fc1").layout == "4×4, 4 apart"
    assert site_list.site("blocks.0.mlp.fc1").key_places.cells[:5] == (-1, -1, -1, -1, 0)
    assert not site_list.site("head").is_spatial


def test_layers_that_mix_positions_are_refused():
    site_list = find_sites(Mixing(), torch.zeros(1, 3, 32, 32))
    assert [site.path for site in site_list.sites] == ["embed", "head"]
    assert {refused.path: refused.reason for refused in site_list.refused} == {
        "tokens": "it mixes the positions of the image"
    }


def test_scores_are_laid_over_the_picture():
    site_list = find_sites(Registers(), torch.zeros(1, 3, 16, 40))
    places = site_list.site("first").key_places
    scores = torch.arange(24.0).reshape(2, 12)
    assert torch.equal(places.to_map(scores), scores[:, :10].reshape(2, 2, 5))
    windows = find_sites(swin(), torch.zeros(1, 3, 64, 64)).site("layers.0.blocks.1.attn.qkv").key_places
    cells = torch.tensor(windows.cells, dtype=torch.float32)[None]
    assert torch.equal(windows.to_map(cells)[0].flatten(), torch.arange(256.0))


# Networks that turn or crop what they are given before their first layer sees it


def cropped(x):
    return x[..., 8:24, 8:]


TURNS = {
    "transposed": lambda x: x.transpose(-1, -2),
    "flipped": lambda x: x.flip(-1),
    "turned by a quarter": lambda x: torch.rot90(x, 1, (-2, -1)),
    "rolled": lambda x: x.roll((5, 9), (-2, -1)),
    "cropped": cropped,
    "cropped, then turned": lambda x: cropped(x).transpose(-1, -2),
    "padded far": lambda x: nn.functional.pad(x, (16, 0, 8, 8)),
    "halves swapped": lambda x: torch.cat([x[..., 16:], x[..., :16]], dim=-1),
    "quarters shuffled": lambda x: torch.stack([x[..., i * 8 : i * 8 + 8, :] for i in (2, 0, 3, 1)], -3).flatten(
        -3, -2
    ),
}
"""What moves the places of an image; applied to a mask as it is to an image."""

BESIDE = {
    "nothing": lambda x: x,
    "normalised": lambda x: (x - x.new_tensor([0.4, 0.5, 0.6])[:, None, None]) / 0.2,
    "of its own mean": lambda x: (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), keepdim=True),
    "BGR": lambda x: x[:, [2, 1, 0]],
    "BGR by flip": lambda x: x.flip(1),
    "grey": lambda x: x.mean(1, keepdim=True).expand(-1, 3, -1, -1),
    "in other colours": lambda x: torch.einsum("dc,nchw->ndhw", torch.eye(3).roll(1, 0), x),
    "padded as a convolution pads": lambda x: nn.functional.pad(x, (1, 1, 1, 1))[..., 1:-1, 1:-1],
    "written into": lambda x: x.clone().sub_(0.5).clamp_(-0.4, 0.4),
}
"""What leaves the places where they are."""


class Before(nn.Module):
    def __init__(self, *steps):
        super().__init__()
        torch.manual_seed(0)
        self.steps = steps
        self.embed, self.deep = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, stride=2)
        self.tokens, self.head = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        x = torch.relu(self.deep(torch.relu(self.embed(x))))
        return self.head(self.tokens(x.flatten(2).transpose(1, 2)).mean(1))


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("turn", TURNS)
def test_masks_go_where_the_network_puts_the_picture(turn, beside):
    """The twin is the network inside, given the image and the mask already turned."""
    picture, mask = torch.rand(1, 3, 32, 32), torch.zeros(1, 32, 32)
    mask[:, 9:19, 10:22] = 1
    net = Before(BESIDE[beside], TURNS[turn]).eval()
    site_list = find_sites(net, picture)
    net.steps = (BESIDE[beside],)
    twin = find_sites(net, TURNS[turn](picture))
    assert site_list.lost is None
    for site, other in zip(site_list.sites[1:], twin.sites[1:], strict=True):
        for places, wanted in ((site.key_places, other.key_places), (site.output_places, other.output_places)):
            if wanted is not None:
                found = places.weights(mask, smallest=0)
                torch.testing.assert_close(found, wanted.weights(TURNS[turn](mask), smallest=0))


@pytest.mark.parametrize("turn", TURNS)
def test_scores_are_laid_back_over_the_picture(turn):
    mask = torch.zeros(1, 32, 32)
    mask[:, 9:19, 10:22] = 1
    net = Before(TURNS[turn]).eval()
    site = find_sites(net, torch.rand(1, 3, 32, 32)).sites[0]  # its output has a position for every pixel that is left
    left = TURNS[turn](torch.arange(1.0, 1025).reshape(1, 32, 32)).unique().long()
    wanted = torch.zeros(1025)
    wanted[left] = 1
    expected = mask * wanted[1:].reshape(1, 32, 32)  # what lies outside of a crop is lost
    laid_out = site.output_places.to_map(site.output_places.weights(mask, smallest=0))
    torch.testing.assert_close(laid_out, expected.double())


@pytest.mark.parametrize("beside", BESIDE)
def test_what_leaves_places_alone_makes_no_frame(beside):
    site_list = find_sites(Before(BESIDE[beside]).eval(), torch.rand(1, 3, 32, 32))
    assert all(site.key_places.frame is None for site in site_list.sites if site.key_places is not None)


def test_a_resize_of_a_crop_lies_over_the_crop():
    net = Before(cropped, lambda x: nn.functional.interpolate(x, (48, 96), mode="bilinear")).eval()
    places = find_sites(net, torch.rand(1, 3, 32, 32)).sites[0].output_places
    mask = torch.zeros(1, 32, 32)
    mask[:, 8:16, 8:20] = 1  # the upper left quarter of the crop
    found = places.weights(mask, smallest=0).reshape(48, 96)
    assert found[:24, :48].min() == 1 and found[24:].max() == 0 and found[:, 48:].max() == 0


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("grid_sampler_2d", lambda x: nn.functional.grid_sample(
            x, nn.functional.affine_grid(torch.tensor([[[0.0, 1, 0], [1, 0, 0]]]), x.shape, align_corners=False),
            align_corners=False)),
        ("index", lambda x: x[:, :, torch.arange(31, -1, -1)]),
        ("sort", lambda x: x.sort(dim=3).values),
        ("index_select", lambda x: x.index_select(3, torch.arange(31, -1, -1))),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_told(name, step):
    assert find_sites(Before(step).eval(), torch.rand(1, 3, 32, 32)).lost == name

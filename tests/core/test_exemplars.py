"""What a site sees of exemplars."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from rulepatch.core.exemplars import Exemplar
from rulepatch.core.site_activations import position_weights, record_sites
from rulepatch.errors import ExemplarError, SiteError
from rulepatch.tracing.positions import SpatialPositions
from rulepatch.tracing.sites import find_sites, flatten_positions

SITES = ["0.0", "1.conv1", "1.conv2", "2.0", "3.conv", "6"]


def masks_for(inputs):
    masks = torch.zeros(len(inputs), *inputs.shape[-2:])
    masks[:, 8:, 2:14] = 1
    return masks


@pytest.fixture
def observation_at(net, inputs):
    site_list = find_sites(net, inputs[:1])
    edited = inputs + masks_for(inputs)[:, None] * torch.randn_like(inputs)

    def observation(path, *, everywhere=False, **settings):
        masks = torch.ones_like(masks_for(inputs)) if everywhere else masks_for(inputs)
        return record_sites(net, [site_list.site(path, **settings)], inputs, edited, masks)[0]

    return observation


@pytest.mark.parametrize("path", SITES)
def test_adding_the_residuals_gives_the_originals_values(observation_at, path):
    """The residuals are what the output lacks: with them added, the value point sees the original image's values."""
    observation = observation_at(path, everywhere=True)
    output = observation.edited.output
    axis = 1 if observation.site.kind == "conv" else -1
    added = observation.residuals.reshape(output.movedim(axis, -1).shape).movedim(-1, axis)
    values = flatten_positions(observation.edited.route(output + added.float()), observation.site.channel_axis)
    assert torch.allclose(values, observation.targets(), atol=1e-4)
    without = flatten_positions(observation.edited.values, observation.site.channel_axis)
    assert not torch.allclose(without, observation.targets(), atol=1e-2)  # the control: there was something to repair


def test_residuals_follow_a_change_of_layout():
    """A linear layer whose output is moved to channels-first before the sum, as in ConvNeXt."""

    class Permuted(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix, self.scale = nn.Linear(4, 4), nn.Parameter(torch.tensor([0.5, -2.0, 1.0, 3.0])[:, None, None])

        def forward(self, x):
            return x + self.scale * self.mix(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    model = nn.Sequential(Permuted(), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()
    images = torch.randn(2, 4, 6, 6)
    site = find_sites(model, images[:1]).site("0.mix")
    assert (site.value_point, site.channel_axis, site.exact) == ("0", 1, True)
    (observation,) = record_sites(model, [site], images, torch.randn_like(images), torch.ones(2, 6, 6))
    added = observation.residuals.reshape(2, 6, 6, 4).float()
    values = observation.edited.route(observation.edited.output + added)
    assert torch.allclose(values, observation.original.values, atol=1e-4)


def test_dead_channels_lack_nothing(net, inputs):
    net[1].bn2.weight.data[3] = 0
    site = find_sites(net, inputs[:1]).site("1.conv2")
    (observation,) = record_sites(net, [site], inputs, torch.randn_like(inputs), masks_for(inputs))
    assert torch.equal(observation.residuals[..., 3], torch.zeros_like(observation.residuals[..., 3]))
    assert observation.residuals.isfinite().all()


def test_error_is_the_mean_masked_difference(observation_at):
    observation = observation_at("1.conv2")
    weights = observation.value_weights.float()[..., None]
    difference = (
        flatten_positions(observation.edited.values, 1) - flatten_positions(observation.original.values, 1)
    ).abs()
    expected = (weights * difference).sum((0, 1)) / weights.sum()
    assert torch.allclose(observation.error(), expected, atol=1e-6)


def test_concept_keys_are_those_under_the_mask(observation_at):
    observation = observation_at("1.conv1")
    keys, weights = observation.concept_keys(1)
    assert len(keys) == len(weights) == int((observation.key_weights > 0).sum()) and float(weights.min()) > 0
    patches, _ = observation.concept_keys(2)
    assert keys.shape[1] == 8 and patches.shape[1] == 72


def test_weights_of_convolution_maps():
    mask = torch.zeros(1, 8, 8)
    mask[:, :4, :4] = 1
    weights = position_weights(mask, torch.zeros(1, 5, 2, 2), 1)
    assert weights.tolist() == [[1, 0, 0, 0]]


def test_small_shares_are_left_out_but_never_all():
    mask = torch.zeros(1, 8, 8)
    mask[:, :4, :4] = 1
    mask[:, 4, 0] = 1
    assert position_weights(mask, torch.zeros(1, 5, 2, 2), 1).tolist() == [[1, 0, 0, 0]]
    tiny = torch.zeros(1, 8, 8)
    tiny[:, 7, 7] = 1
    assert position_weights(tiny, torch.zeros(1, 5, 2, 2), 1).tolist() == [[0, 0, 0, 1 / 16]]


def test_weights_of_tokens_leave_the_class_token_out():
    mask = torch.zeros(1, 4, 4)
    mask[:, :2, :2] = 1
    tokens = SpatialPositions((2, 2), (-1, 0, 1, 2, 3))
    assert position_weights(mask, torch.zeros(1, 5, 7), 2, tokens).tolist() == [[0, 1, 0, 0, 0]]
    assert position_weights(mask, torch.zeros(1, 2, 2, 7), 3).tolist() == [[1, 0, 0, 0]]
    assert position_weights(mask, torch.zeros(1, 7), 1).tolist() == [[1]]


def test_windows_of_a_picture_are_entries_of_their_own():
    masks = torch.zeros(2, 4, 4)
    masks[0, :2, :2] = masks[1, 2:, 2:] = 1
    windows = SpatialPositions((2, 2), (0, 2, 1, 3), windows=2)
    assert position_weights(masks, torch.zeros(4, 2, 7), 2, windows).tolist() == [[1, 0], [0, 0], [0, 0], [0, 1]]


@pytest.mark.parametrize("places", [None, SpatialPositions((2, 2), (0, 1, 2, 3), windows=4)])
def test_positions_that_do_not_lie_in_the_picture_are_refused(places):
    with pytest.raises(SiteError, match="lie in the image"):
        position_weights(torch.ones(2, 4, 4), torch.zeros(2, 4, 7), 2, places)


def test_a_layer_that_is_not_linear_in_its_weight_is_refused(inputs):
    class Squared(nn.Conv2d):
        def forward(self, x):
            return self._conv_forward(x, self.weight, self.bias) ** 2

    model = nn.Sequential(Squared(3, 4, 3), nn.ReLU())
    site = find_sites(model, inputs[:1]).site("0")
    with pytest.raises(SiteError, match="linear in its weight"):
        record_sites(model, [site], inputs, inputs, masks_for(inputs))


def picture(size=(6, 4), colour="grey"):
    return Image.new("RGB", size, colour)


def mask(height=4, width=6, value=1.0):
    return np.full((height, width), value, np.float32)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((picture(), picture(), mask(4, 5)), "mask .* size 6x4 but got 5x4"),
        ((picture(), picture((4, 6)), mask()), "edited image .* size 6x4 but got 4x6"),
        ((picture(), picture(), mask(value=0)), "empty"),
        ((picture(), picture(), mask(value=np.nan)), r"0\.\.1"),
        ((picture(), picture(), mask(value=255)), r"0\.\.1"),
    ],
)
def test_exemplars_whose_parts_do_not_fit_are_refused(parts, words):
    with pytest.raises(ExemplarError, match=words):
        Exemplar(*parts)


def test_digest_of_an_exemplar_sees_every_part():
    first = Exemplar(picture(), picture(colour="white"), mask())
    others = [
        Exemplar(picture(colour="red"), picture(colour="white"), mask()),
        Exemplar(picture(), picture(colour="red"), mask()),
        Exemplar(picture(), picture(colour="white"), mask(value=0.9)),
    ]
    assert first.digest() == Exemplar(picture(), picture(colour="white"), mask(), label="x").digest()
    assert len({exemplar.digest() for exemplar in [first, *others]}) == 4


def test_from_files_wants_a_replacement_or_an_edited_picture(tmp_path):
    picture().save(tmp_path / "image.png")
    for extra in ({}, {"replacement": "snow.png", "edited": "edited.png"}):
        with pytest.raises(ExemplarError, match="either a replacement or an edited image"):
            Exemplar.from_files(tmp_path / "image.png", mask=tmp_path / "image.png", **extra)


@pytest.mark.parametrize("image", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("edited", ["RGB", "RGBA", "P"])
def test_both_pictures_of_an_exemplar_have_one_mode(image, edited, tmp_path):
    mask = Image.new("L", (4, 4))
    mask.paste(255, (0, 0, 4, 2))
    Image.new(image, (4, 4)).save(tmp_path / "i.png")
    Image.new(edited, (4, 4)).save(tmp_path / "e.png")
    mask.save(tmp_path / "m.png")
    mode = "RGBA" if "RGBA" in {image, edited} else "RGB"
    read = Exemplar.from_files(tmp_path / "i.png", mask=tmp_path / "m.png", edited=tmp_path / "e.png")
    made = Exemplar(Image.new(image, (4, 4)), Image.new(edited, (4, 4)), mask)
    painted = Exemplar.painted(Image.new(image, (4, 4)), made.mask, Image.new(edited, (9, 9)))
    assert {read.image.mode, read.edited.mode, made.image.mode, made.edited.mode} == {mode}
    assert painted.image.mode == painted.edited.mode == ("RGBA" if image == "RGBA" else "RGB")


def test_a_mask_of_any_form_makes_the_same_exemplar(tmp_path):
    hard = np.zeros((4, 6), bool)
    hard[2:, 1:5] = True
    forms = [hard, hard * 255, hard.astype(np.float64), torch.from_numpy(hard), Image.fromarray(hard), hard[None]]
    made = [Exemplar(picture(), picture(colour="white"), form) for form in forms]
    assert len({one.digest() for one in made}) == 1
    assert all(one.mask.dtype == np.float32 for one in made)
    snow = picture(colour="white")
    pasted = {Exemplar.painted(picture(), form, snow).digest() for form in forms}
    assert len(pasted) == 1


def test_the_concept_of_a_mask_of_several_colours_is_named(tmp_path):
    picture().save(tmp_path / "image.png")
    picture(colour="white").save(tmp_path / "edited.png")
    labels = np.zeros((4, 6), np.uint8)
    labels[:2], labels[2:, :3] = 1, 2
    Image.fromarray(labels).save(tmp_path / "mask.png")
    parts = {"mask": tmp_path / "mask.png", "edited": tmp_path / "edited.png"}
    with pytest.raises(ExemplarError, match=r"2 colours beside 0 .*mask_value"):
        Exemplar.from_files(tmp_path / "image.png", **parts)
    found = Exemplar.from_files(tmp_path / "image.png", **parts, mask_value=2)
    assert np.array_equal(found.mask, labels == 2)

"""Every registered stylizer keeps every promise; each is also held to an oracle of its own; and the textures."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from rulepatch.concepts.stylize import PICTURES, STYLES, Style, finished, load_stylizer, styles, stylizers
from rulepatch.concepts.stylizers.adain import adain
from rulepatch.concepts.stylizers.gatys import gram
from rulepatch.concepts.stylizers.networks import pixels
from rulepatch.concepts.stylizers.paste import feathered, laid, shading
from rulepatch.errors import FolderError, ImageError, MissingExtraError, SettingError, WeightsError
from rulepatch.images import read_image
from rulepatch.playground.pictures import picture_of
from rulepatch.playground.scenes import render
from tools import textures

pytestmark = pytest.mark.slow

WIDTH, HEIGHT = 83, 61
WEIGHTED = sorted(set(stylizers()) - {"paste", "playground"})
DRAWING = {"paste", "inpainting", "playground"}
"""Those whose result depends on the seed."""


def of_the_playground(request):
    """Whether a test is about the stylizer that knows only its own images and styles."""
    return getattr(request.node, "callspec", None) and request.node.callspec.params.get("name") == "playground"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory, tiny):
    """A tiny random network of each stylizer, loaded by the name of its files."""
    kept = {}

    def load(name, **options):
        if name not in kept:
            kept[name] = tiny[name](tmp_path_factory.mktemp(name))
        full_name, settings = kept[name]
        return load_stylizer(full_name, **{"settings": settings} | options)

    return load


@pytest.fixture
def photo(request):
    """An image with light that falls off to one side."""
    if of_the_playground(request):
        return picture_of(render("van", seed=3))
    rng = np.random.default_rng(1)
    ramp = np.linspace(60, 190, WIDTH)[None, :, None]
    return Image.fromarray((ramp + rng.uniform(-30, 30, size=(HEIGHT, WIDTH, 3))).clip(0, 255).astype(np.uint8))


@pytest.fixture
def mask(request):
    if of_the_playground(request):
        return render("van", seed=3).masks["ground"].round()
    found = np.zeros((HEIGHT, WIDTH), np.float32)
    found[30:55, 10:70] = 1
    found[29, 10:70] = 0.5
    return found


@pytest.fixture
def pair(request):
    if of_the_playground(request):
        return Style("snow"), Style("grass")
    return styles(["snow"])[0], styles(["graffiti"])[0]


def test_every_stylizer_has_a_tiny_one(tiny):
    assert set(stylizers()) == set(tiny), "write a tiny one for each, in conftest.py"


@pytest.mark.slow
@pytest.mark.parametrize("name", stylizers())
def test_a_stylizer_keeps_its_promises(name, loaded, photo, mask, pair):
    one, before, painted = loaded(name), photo.tobytes(), mask.copy()
    found = one(photo, mask, pair[0], seed=3)
    assert found.size == photo.size and found.mode == "RGB"
    old, new = np.asarray(photo), np.asarray(found)
    assert (new[mask == 0] == old[mask == 0]).all(), "it changed something outside"
    assert (new[mask == 1] != old[mask == 1]).any(axis=-1).mean() > 0.5, "it hardly changed anything inside"
    assert photo.tobytes() == before and np.array_equal(mask, painted), "it changed its arguments"
    assert one(photo, mask, pair[0], seed=3).tobytes() == found.tobytes(), "it is not determined by its arguments"
    assert one(photo, mask, pair[1], seed=3).tobytes() != found.tobytes(), "the style does not matter"
    by_seed = one(photo, mask, pair[0], seed=4).tobytes() != found.tobytes()
    assert by_seed == (name in DRAWING)


@pytest.mark.slow
@pytest.mark.parametrize("name", stylizers())
def test_an_empty_mask_changes_nothing(name, loaded, photo, mask, pair):
    assert loaded(name)(photo, 0 * mask, pair[0]).tobytes() == photo.tobytes()
    assert loaded(name, blend=0.0)(photo, mask, pair[0]).tobytes() == photo.tobytes()


@pytest.mark.parametrize("name", stylizers())
def test_a_whole_mask_is_no_trouble(name, loaded, photo, mask, pair):
    assert loaded(name)(photo, np.ones_like(mask), pair[0]).tobytes() != photo.tobytes()


@pytest.mark.parametrize("name", stylizers())
def test_two_loads_are_one_stylizer_and_its_description_says_what_it_does(name, loaded, photo, mask, pair):
    first, second, other = loaded(name), loaded(name), loaded(name, blend=0.5)
    assert first.describe() == second.describe() != other.describe()
    assert json.loads(json.dumps(first.describe())) == first.describe()
    assert first.describe()["name"] == first.name == name and first.describe()["blend"] == 0.8
    assert second(photo, mask, pair[0]).tobytes() == first(photo, mask, pair[0]).tobytes()
    assert other(photo, mask, pair[0]).tobytes() != first(photo, mask, pair[0]).tobytes()


@pytest.mark.parametrize("name", WEIGHTED)
def test_other_weights_are_another_description(name, loaded, tiny, tmp_path):
    full_name, settings = tiny[name](tmp_path, seed=1)
    assert load_stylizer(full_name, settings=settings).describe()["weights"] != loaded(name).describe()["weights"]


@pytest.mark.parametrize("name", stylizers())
def test_what_does_not_fit_is_refused(name, loaded, photo, mask, pair):
    one = loaded(name)
    for image, where, match in [
        (photo.convert("L"), mask, "in RGB"),
        (photo, mask[:50].T, "mask"),
        (photo, mask * 255, r"0\.\.1"),
        (photo, mask * np.float32("nan"), r"0\.\.1"),
    ]:
        with pytest.raises(ImageError, match=match):
            one(image, where, pair[0])
    words = Style("snow")
    if name in {"inpainting", "playground"}:
        assert one(photo, mask, words).size == photo.size
    else:
        with pytest.raises(SettingError, match="only words"):
            one(photo, mask, words)
    with pytest.raises(SettingError, match=r"blend in 0\.\.1"):
        loaded(name, blend=1.5)
    with pytest.raises(SettingError, match="nonsense"):
        loaded(name, settings={"nonsense": 1})


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_device_that_is_not_there_is_refused(name, loaded):
    with pytest.raises(SettingError, match="a device that is here"):
        loaded(name, device="moon")


def test_a_name_of_no_stylizer_is_refused():
    with pytest.raises(SettingError, match="nearest is gatys"):
        load_stylizer("gaty")
    with pytest.raises(SettingError, match="takes nothing"):
        load_stylizer("paste/snow")


@pytest.mark.parametrize(
    "name", ["adain/no+where", "adain/nowhere", "adain/", "ghiasi/nowhere", "ghiasi/", "gatys/no.pth"]
)
def test_weights_that_are_not_there_are_one_sentence(name):
    with pytest.raises(WeightsError, match="but"):
        load_stylizer(name)


def test_what_every_stylizer_ends_with(photo, mask):
    style = Image.new("RGB", (2 * WIDTH, 2 * HEIGHT), (200, 100, 0))  # it is resized
    old, new = np.asarray(photo, np.float32), np.asarray(finished(photo, style, mask, 0.8), np.float32)
    wanted = old + 0.8 * mask[..., None] * (np.array([200, 100, 0]) - old)
    assert np.abs(new - wanted).max() <= 0.51


# Paste


def test_a_planted_ramp_of_light_stays_on_the_texture(photo, pair):
    whole, flat = np.ones((HEIGHT, WIDTH), np.float32), Style("grey", 0, Image.new("RGB", (64, 64), (120, 120, 120)))
    columns = {
        strength: np.asarray(load_stylizer("paste", blend=1.0, settings={"illumination": strength, "feather": 0.0})(
            photo, whole, flat
        ), np.float32).mean(axis=(0, 2))
        for strength in (0.0, 0.5, 1.0)
    }  # fmt: skip
    slopes = {strength: np.polyfit(np.linspace(-1, 1, WIDTH), found, 1)[0] for strength, found in columns.items()}
    assert np.ptp(columns[0.0]) == 0, "without it the texture is as it was"
    assert slopes[1.0] > 1.5 * slopes[0.5] > 20
    ramp = np.linspace(60, 190, WIDTH) / 125 * 120
    middle = slice(12, -12)  # the light is smooth: it cannot follow to the very border
    assert np.abs(columns[1.0] - ramp)[middle].max() < 12
    assert abs(columns[1.0].mean() - 120) < 6, "light is moved about, not added"


def test_light_comes_from_the_region_alone(photo, mask):
    inside = np.asarray(photo).copy()
    inside[mask == 0] = 255
    gains = [shading(Image.fromarray(each), mask)[mask == 1] for each in (np.asarray(photo), inside)]
    np.testing.assert_allclose(gains[0], gains[1], rtol=1e-5)


def test_a_feather_grows_inwards_only():
    mask = np.zeros((40, 60), np.float32)
    mask[:, 25:] = 1
    alpha = feathered(mask, 9.0)
    assert (alpha[mask == 0] == 0).all() and (alpha <= mask).all()
    assert (np.diff(alpha[20]) >= 0).all() and alpha[20, 26] < 0.3 and alpha[20, 45] == 1
    assert 4 < ((alpha[20] > 0) & (alpha[20] < 1)).sum() < 14
    assert (feathered(mask, 0.0) == mask).all()


def test_a_feather_does_not_eat_what_is_thin():
    mask = np.zeros((40, 60), np.float32)
    mask[20:22] = 1
    assert feathered(mask, 9.0).sum() >= 0.5 * mask.sum()


def test_a_texture_is_laid_at_its_own_scale():
    ramp = Image.fromarray(np.arange(30 * 20 * 3, dtype=np.uint16).reshape(20, 30, 3).astype(np.uint8))
    small = np.asarray(laid(ramp, (8, 6), seed=2))
    pieces = np.lib.stride_tricks.sliding_window_view(np.asarray(ramp), (6, 8, 3))[:, :, 0]
    assert (pieces == small).all(axis=(2, 3, 4)).sum() >= 1, "a part of it, pixel by pixel"
    large = np.asarray(laid(ramp, (90, 70), seed=2))
    assert (large[:, :30] == large[:, 60:90]).all() and (large[:20] == large[40:60]).all(), "as in a mirror"
    assert len({laid(ramp, (8, 6), seed=seed).tobytes() for seed in range(20)}) > 10


def test_pasting_is_the_same_wherever_the_region_lies(pair, photo, mask):
    """Only the region's box is worked on: what lies elsewhere does not matter."""
    paste = load_stylizer("paste")
    other = np.asarray(photo).copy()
    other[:25] = 0
    first, second = (np.asarray(paste(each, mask, pair[0])) for each in (photo, Image.fromarray(other)))
    assert (first[25:] == second[25:]).all()


# Networks


def test_adain_gives_mean_and_spread_of_the_style():
    content, style = torch.randn(1, 5, 9, 7) * 3 + 2, torch.randn(1, 5, 4, 8) * 0.2 - 1
    found = adain(content, style)
    torch.testing.assert_close(found.mean((2, 3)), style.mean((2, 3)))
    torch.testing.assert_close(found.std((2, 3)), style.std((2, 3)))
    torch.testing.assert_close(adain(content, content), content)


def test_adain_runs_the_published_layout(tiny, tmp_path, photo):
    """The same numbers as the plain chain of layers whose indices the files have."""
    from torch import nn

    name, _ = tiny["adain"](tmp_path)
    one = load_stylizer(name)
    state = torch.load(tmp_path / "vgg_normalised.pth", weights_only=True)
    layers, indices = [], sorted({int(key.split(".")[0]) for key in state if int(key.split(".")[0]) < 31})
    for index in indices:
        weight = state[f"{index}.weight"]
        if index:
            if index - len(layers) > 1:
                layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
            layers.append(nn.ReflectionPad2d(1))
        conv = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[-1])
        conv.weight.data, conv.bias.data = weight, state[f"{index}.bias"]
        assert len(layers) == index, "the layout of the files"
        layers += [conv, nn.ReLU()] if index else [conv]
    x = pixels(photo, torch.device("cpu"))
    with torch.no_grad():
        torch.testing.assert_close(one.encoder(x)[-1], nn.Sequential(*layers)(x))
    assert one.decoder(one.encoder(x)[-1])[-1].shape[2:] == (64, 88)


def test_optimising_lowers_its_own_loss(loaded, photo, pair):
    one = loaded("gatys", settings={"steps": 12})
    content, style = (pixels(each, torch.device("cpu")) for each in (photo, pair[1].picture))
    found, losses = one.optimised(content, style)
    assert min(losses) == losses[-1] < 0.6 * losses[0]
    again = sum(one.how.style_weight * (gram(a) - gram(b)).square().mean() for a, b in zip(
        one._read(found, (0, 2, 4, 8, 12)), one._read(style, (0, 2, 4, 8, 12)), strict=True
    ))  # fmt: skip
    assert float(again) < losses[0], "the style came nearer"


def test_optimising_works_where_gradients_are_off(loaded, photo, mask, pair):
    one = loaded("gatys")
    with torch.inference_mode():
        found = one(photo, mask, pair[0])
    assert found.tobytes() == one(photo, mask, pair[0]).tobytes()


@pytest.mark.slow
def test_vgg_runs_as_in_torchvision(tmp_path, photo):
    from torchvision.models import vgg19

    torch.manual_seed(0)
    net = vgg19(weights=None).features[:30]
    save_file({f"features.{key}": value for key, value in net.state_dict().items()}, tmp_path / "vgg.safetensors")
    one = load_stylizer(f"gatys/{tmp_path / 'vgg.safetensors'}")
    x = pixels(photo, torch.device("cpu"))
    normalised = (x - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        1, 3, 1, 1
    )
    with torch.no_grad():
        torch.testing.assert_close(one._read(x, [12])[0], net(normalised))


def test_published_weights_that_cannot_be_had_are_one_sentence(monkeypatch):
    import torchvision.models

    def offline(**_options):
        raise OSError("no route")

    monkeypatch.setattr(torchvision.models, "vgg19", offline)
    with pytest.raises(WeightsError, match="gatys/WEIGHTS"):
        load_stylizer("gatys")


@pytest.mark.parametrize("wrong", ["missing", "shape", "nan", "pickle"])
def test_wrong_weights_of_vgg_are_refused(tiny, tmp_path, wrong):
    name, _ = tiny["gatys"](tmp_path)
    path = Path(name.removeprefix("gatys/"))
    state = torch.load(path, weights_only=True)
    if wrong == "missing":
        del state["features.28.weight"]
    if wrong == "shape":
        state["features.5.weight"] = torch.zeros(4, 99, 3, 3)
    if wrong == "nan":
        state["features.5.bias"][0] = torch.nan
    torch.save({"net": Path("x")} if wrong == "pickle" else state, path)
    with pytest.raises(WeightsError):
        load_stylizer(f"gatys/{path}")


# Words


def test_words_need_diffusers(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtraError, match=r"rulepatch\[diffusion\]"):
        load_stylizer("inpainting/some/model")


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    pytest.importorskip("diffusers")
    with pytest.raises(WeightsError, match="inpainting model"):
        load_stylizer(f"inpainting/{tmp_path}")


@pytest.mark.parametrize("settings", [{"template": "snow"}, {"steps": 0}, {"side": 3}, {"guidance": -1}])
def test_settings_of_words_out_of_range_are_refused(settings):
    with pytest.raises(SettingError, match=f"expected .*{next(iter(settings))}"):
        load_stylizer("inpainting/x", settings=settings)


# Styles


def test_the_eight_styles_are_there():
    found = styles()
    assert len(found) == 40 and tuple(dict.fromkeys(style.name for style in found)) == STYLES
    assert len({style.digest() for style in found}) == 40
    assert len({style.picture.tobytes() for style in found}) == 40
    assert all(style.picture.size == (256, 256) and style.prompt == style.name for style in found)
    assert [style.index for style in styles(["wood", "snow"])] == [0, 1, 2, 3, 4] * 2


def test_a_digest_tells_styles_apart():
    picture = Image.new("RGB", (4, 4))
    one = Style("snow", 0, picture)
    assert one.digest() == Style("snow", 0, picture.copy(), "snow").digest()
    others = [
        Style("ice", 0, picture),
        Style("snow", 1, picture),
        Style("snow"),
        Style("snow", 0, picture, "deep snow"),
    ]
    assert len({one.digest(), *(each.digest() for each in others)}) == 5


@pytest.mark.slow
@pytest.mark.parametrize("name", STYLES)
def test_the_renderer_gives_the_pictures_that_are_shipped(name):
    for index, style in enumerate(styles([name])):
        coded = read_image(textures.encoded(textures.render(name, index)))
        error = np.abs(np.asarray(coded, np.float32) - np.asarray(style.picture, np.float32))
        assert error.mean() < 0.5, "the same code gives the same pixels, but for versions of the codec"


def test_the_pictures_are_small_and_written_as_told(tmp_path, monkeypatch):
    monkeypatch.setattr(textures, "STYLES", ("snow",))
    textures.main(["--out", str(tmp_path / "new")])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [f"snow-{k}.jpg" for k in range(5)]
    assert sum(path.stat().st_size for path in PICTURES.iterdir()) < 1_500_000
    with pytest.raises(SettingError, match="nearest are snow"):
        textures.render("snwo", 0)
    with pytest.raises(SettingError, match="0 to 4"):
        textures.render("snow", 5)


def test_a_folder_of_ones_own(tmp_path):
    for name, count in (("moss", 2), ("rust", 1)):
        (tmp_path / name).mkdir()
        for k in range(count):
            Image.new("RGB", (20, 10), (10 * k, 90, 0)).save(tmp_path / name / f"{k}.png")
    (tmp_path / "empty").mkdir()
    found = styles(folder=tmp_path)
    assert [(style.name, style.index) for style in found] == [("moss", 0), ("moss", 1), ("rust", 0)]
    assert [style.name for style in styles(["rust"], folder=tmp_path)] == ["rust"]
    with pytest.raises(SettingError, match="nearest are moss"):
        styles(["mos"], folder=tmp_path)
    with pytest.raises(SettingError, match="nearest are snow"):
        styles(["snw"])
    with pytest.raises(FolderError, match="expected images"):
        styles(folder=tmp_path / "empty")
    with pytest.raises(FolderError, match="there is none"):
        styles(folder=tmp_path / "nowhere")
    with pytest.raises(ImageError, match="in RGB"):
        Style("grey", 0, Image.new("L", (4, 4)))


def test_the_networks_of_ghiasi_are_told_apart(tiny, tmp_path):
    name, _ = tiny["ghiasi"](tmp_path)
    folder = Path(name.removeprefix("ghiasi/"))
    both = load_stylizer(f"ghiasi/{folder / 'style'}+{folder / 'transformer'}")
    assert both.describe() == load_stylizer(name).describe()
    with pytest.raises(WeightsError, match="lacks it"):
        load_stylizer(f"ghiasi/{folder / 'transformer'}+{folder / 'style'}")
    with pytest.raises(WeightsError, match="found 0 and 0"):
        load_stylizer(f"ghiasi/{folder / 'style'}")

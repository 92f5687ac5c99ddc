import copy
import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch import distributed, nn
from torch.nn import functional as F

from rulepatch.collectives import group_scope
from rulepatch.data.cache import Cache
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.data.run import Run
from rulepatch.data.statistics import PartialStatistics, StatisticsConfig, find_statistics, key_statistics
from rulepatch.errors import FolderError, SettingError, WorkerError
from rulepatch.images import read_image
from rulepatch.models.classes import Classes
from rulepatch.models.classifier import Classifier
from rulepatch.models.preprocess import Preprocess
from rulepatch.tracing.sites import find_sites

CLASSES = Classes(("a", "b", "c", "d", "e"))
PREPROCESS = Preprocess((16, 16), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


class Counting(nn.Module):
    """Counts the images that pass, one by one for tracing or in batches."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.batches = []

    def forward(self, x):
        self.batches.append(len(x))
        return self.inner(x)


@pytest.fixture
def model(net):
    return Classifier(Counting(net), PREPROCESS, CLASSES, "the net")


@pytest.fixture
def images(tmp_path, paint):
    for i in range(10):
        paint(tmp_path / "pictures" / f"{i}.png", seed=i, size=(16 + i, 18))
    return ImageSet.of(tmp_path / "pictures", CLASSES)


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def statistics(model, images, paths, **options):
    site_list = find_sites(model.module, model.example())
    options = {"batch_size": 4, "progress": False} | options
    model.module.batches.clear()
    found = key_statistics(model, images, [site_list.site(path) for path in paths], **options)
    return [found[path] for path in paths]


def was_computed(model):
    """Whether the images went through the network, other than one by one as for a cache's key."""
    return max(model.module.batches, default=0) > 1


def naive_keys(model, images, layer_path, *, unfolded=False):
    """Every key of a layer, by a plain forward pass of one image at a time, in float64 numpy."""
    layer, found = model.module.get_submodule(layer_path), []
    handle = layer.register_forward_pre_hook(lambda _, args: found.append(args[0].detach()))
    for picture in images.pictures:
        model.module(model.inputs(PREPROCESS.pixels(read_image(picture.source))[None]))
    handle.remove()
    keys = torch.cat(found)
    if unfolded:
        keys = F.unfold(keys, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    keys = keys.reshape(len(keys), keys.shape[1], -1)
    return keys.permute(0, 2, 1).reshape(-1, keys.shape[1]).double().numpy()


SITES = ["inner.0.0", "inner.1.conv2", "inner.2.0", "inner.3.conv", "inner.6"]


def test_second_moments_and_samples_equal_a_naive_pass(model, images):
    for path, found in zip(SITES, statistics(model, images, SITES), strict=True):
        keys = naive_keys(model, images, path)
        assert found.moment.count == len(keys)
        assert np.allclose(found.moment.mean(), keys.T @ keys / len(keys), rtol=1e-4, atol=1e-6)
        sample = found.sample.keys.double().numpy()  # few enough that all of them are kept
        assert sample.shape == keys.shape
        assert np.allclose(np.sort(sample, axis=0), np.sort(keys, axis=0), atol=1e-5)


@pytest.mark.parametrize("path", ["inner.0.0", "inner.2.0"])
def test_unfolded_patches_equal_a_naive_pass(path, model, images):
    (found,) = statistics(model, images, [path], architecture=2)
    keys = naive_keys(model, images, path, unfolded=True)
    assert found.moment.count == len(keys)
    assert np.allclose(found.moment.mean(), keys.T @ keys / len(keys), rtol=1e-4, atol=1e-6)


def test_several_sites_in_one_pass_equal_each_alone(model, images):
    together = statistics(model, images, SITES)
    assert model.module.batches == [4, 4, 2]
    for path, found in zip(SITES, together, strict=True):
        (alone,) = statistics(model, images, [path])
        assert all(torch.equal(alone.state()[name], found.state()[name]) for name in found.state())


def test_the_result_does_not_depend_on_the_size_of_batches(model, images):
    one, other = (statistics(model, images, ["inner.2.0"], batch_size=size)[0] for size in (1, 7))
    assert torch.allclose(one.moment.mean(), other.moment.mean(), rtol=1e-5)


def test_the_model_is_left_as_it_was(model, images, cache, untouched):
    model.module.train()
    model.module.inner[0].eval()
    untouched(model.module)
    statistics(model, images, SITES, cache=cache)


def test_the_same_again_is_read_from_the_cache(model, images, cache):
    first = statistics(model, images, SITES, cache=cache)
    assert was_computed(model)
    second = statistics(model, images, SITES[::-1], cache=cache)[::-1]
    assert not was_computed(model)
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(one.state()[name], other.state()[name]) for name in one.state())
        assert torch.equal(one.whitening(floor=1e-5), other.whitening(floor=1e-5))


def test_only_missing_sites_are_computed(model, images, cache):
    statistics(model, images, ["inner.0.0"], cache=cache)
    found = statistics(model, images, ["inner.0.0", "inner.2.0"], cache=cache)
    assert was_computed(model)
    assert [one.moment.count for one in found] == [10 * 256, 10 * 64]
    statistics(model, images, ["inner.2.0"], cache=cache)
    assert not was_computed(model)


def test_a_copy_of_the_model_and_moved_pictures_hit(model, images, cache, tmp_path):
    statistics(model, images, ["inner.2.0"], cache=cache)
    (tmp_path / "pictures").rename(tmp_path / "moved")
    model = Classifier(copy.deepcopy(model.module), dataclasses.replace(PREPROCESS), CLASSES, "another name")
    statistics(model, ImageSet.of(tmp_path / "moved", CLASSES), ["inner.2.0"], cache=cache)
    assert not was_computed(model)


def test_without_a_cache_nothing_is_kept(model, images, cache):
    for _ in range(2):
        statistics(model, images, ["inner.2.0"])
        assert was_computed(model)
    assert not cache.folder.exists()


def changed_module(change):
    def apply(model, images):
        change(model.module.inner)
        return model, images

    return apply


def changed_preprocess(**changes):
    def apply(model, images):
        return Classifier(model.module, dataclasses.replace(PREPROCESS, **changes), CLASSES), images

    return apply


def changed_images(change):
    def apply(model, images):
        return model, ImageSet(tuple(change(list(images.pictures))), images.name)

    return apply


def repainted(pictures):
    pixels = np.asarray(read_image(pictures[4].source)).copy()
    pixels[3, 3, 0] ^= 1
    Image.fromarray(pixels).save(pictures[4].source)
    return pictures


def in_place(name, value):
    return lambda net: net.state_dict()[name].flatten()[:1].add_(value)


def clipped(net):
    """The same weights and, on images of noise, the same numbers: only strong activations tell."""
    net[0][2] = nn.ReLU6(inplace=True)


INGREDIENTS = {
    "a weight before the site": changed_module(in_place("0.0.weight", 1e-4)),
    "a buffer before the site": changed_module(in_place("0.1.running_var", 1e-4)),
    "a weight after the site": changed_module(in_place("6.bias", 1e-4)),
    "zero padding for reflected": changed_module(lambda net: setattr(net[0][0], "padding_mode", "reflect")),
    "average for maximum": changed_module(lambda net: setattr(net[0], "3", nn.AvgPool2d(2))),
    "an activation that clips": changed_module(clipped),
    "the epsilon of a norm": changed_module(lambda net: setattr(net[0][1], "eps", 1e-3)),
    "the type of numbers": changed_module(lambda net: net.double()),
    "mean": changed_preprocess(mean=(0.4, 0.5, 0.61)),
    "std": changed_preprocess(std=(0.2, 0.3, 0.251)),
    "input size": changed_preprocess(input_size=(18, 18)),
    "resize": changed_preprocess(resize=17),
    "interpolation": changed_preprocess(interpolation="bicubic"),
    "squash": changed_preprocess(squash=True),
    "images of the input size": changed_preprocess(keep_exact_size=False),
    "odd margins": changed_preprocess(odd_margins="floor"),
    "one pixel of an image": changed_images(repainted),
    "order of images": changed_images(lambda pictures: pictures[::-1]),
    "an image fewer": changed_images(lambda pictures: pictures[:-1]),
    "an image twice": changed_images(lambda pictures: [*pictures, pictures[0]]),
}


@pytest.mark.parametrize("ingredient", INGREDIENTS)
def test_a_change_of_any_ingredient_misses(ingredient, model, images, cache):
    statistics(model, images, ["inner.2.0"], cache=cache)
    model, images = INGREDIENTS[ingredient](model, images)
    found = statistics(model, images, ["inner.2.0"], cache=cache)[0]
    assert was_computed(model)
    assert found.moment.count == len(images) * (64 if model.preprocess.input_size == (16, 16) else 81)
    statistics(model, images, ["inner.2.0"], cache=cache)
    assert not was_computed(model)


@pytest.mark.parametrize("option", [{"seed": 1}, {"batch_size": 5}, {"architecture": 2}])
def test_a_change_of_any_setting_misses(option, model, images, cache):
    statistics(model, images, ["inner.2.0"], cache=cache)
    statistics(model, images, ["inner.2.0"], cache=cache, **option)
    assert was_computed(model)


def test_two_sites_of_the_same_shape_do_not_meet(model, images, cache):
    first = statistics(model, images, ["inner.1.conv1"], cache=cache)[0]
    second = statistics(model, images, ["inner.1.conv2"], cache=cache)[0]
    assert was_computed(model)
    assert not torch.equal(first.moment.total, second.moment.total)


class Functional(nn.Module):
    """Two networks of equal weights that print alike and differ in what they do between the layers."""

    def __init__(self, activation):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.conv2 = nn.Conv2d(4, 5, 3)
        self.activation = (activation,)

    def forward(self, x):
        return self.conv2(self.activation[0](self.conv1(x))).mean((2, 3))


def test_networks_that_differ_in_their_code_alone_do_not_meet(images, cache):
    plain, clipped = Functional(F.relu), Functional(F.relu6)
    clipped.load_state_dict(plain.state_dict())
    for network in (plain, clipped):
        model = Classifier(Counting(network), PREPROCESS, CLASSES)
        statistics(model, images, ["inner.conv2"], cache=cache)
        assert was_computed(model)


def test_a_damaged_cache_file_is_computed_anew(model, images, cache):
    first = statistics(model, images, ["inner.2.0"], cache=cache)[0]
    (file,) = cache.folder.iterdir()
    content = file.read_bytes()
    for damaged in (content[:100], content[:-1] + bytes([content[-1] ^ 255]), b""):
        file.write_bytes(damaged)
        again = statistics(model, images, ["inner.2.0"], cache=cache)[0]
        assert was_computed(model)
        assert torch.equal(again.moment.total, first.moment.total)
        assert file.read_bytes() == content


def test_a_cache_that_cannot_be_written_is_no_error(model, images, tmp_path):
    (tmp_path / "file").write_text("")
    for _ in range(2):
        statistics(model, images, ["inner.2.0"], cache=Cache(tmp_path / "file"))
        assert was_computed(model)


def test_statistics_that_lack_skipped_pictures_are_not_kept(model, tmp_path, paint, cache):
    sound = paint(tmp_path / "pictures" / "000.png")
    for i in range(1, 100):
        (sound.parent / f"{i:03}.png").symlink_to(sound)
    (sound.parent / "050.png").unlink()
    (sound.parent / "050.png").write_bytes(b"no picture")
    images = ImageSet.of(sound.parent, CLASSES)
    for _ in range(2):
        (found,) = statistics(model, images, ["inner.6"], cache=cache)
        assert was_computed(model)
        assert found.moment.count == 99
    assert not cache.folder.exists()


def test_sites_that_read_the_same_tensor_share_their_statistics():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.after = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.after(self.left(x) + self.right(x)).mean((2, 3))

    model = Classifier(Fork().eval(), Preprocess((16, 16)), ["a", "b"])
    images = ImageSet(tuple(Picture(Image.effect_noise((16, 16), 60).convert("RGB")) for _ in range(5)), "noise")
    sites = find_sites(model.module, model.example()).sites
    found = key_statistics(model, images, sites, progress=False)
    assert found["left"] is found["right"] and found["left"] is not found["after"]
    for site in sites:
        alone = key_statistics(model, images, [site], progress=False)[site.path]
        assert torch.equal(alone.moment.mean(), found[site.path].moment.mean())
    patches = key_statistics(model, images, sites, architecture=2, progress=False)
    assert patches["left"].moment.mean().shape == (27, 27) and patches["right"].moment.mean().shape == (3, 3)


# parts, and groups of processes


def assert_is_whole(found, whole):
    """The sample to the bit, the count exactly, the moment to the rounding of sums in float64."""
    assert torch.equal(found.sample.keys, whole.sample.keys) and found.moment.count == whole.moment.count
    assert float((found.moment.total - whole.moment.total).abs().max() / whole.moment.total.abs().max()) < 1e-10


def sites_of(model, paths=SITES):
    site_list = find_sites(model.module, model.example())
    return [site_list.site(path) for path in paths]


@pytest.mark.parametrize("parts", range(1, 8))
@pytest.mark.parametrize("architecture", [1, 2])
def test_parts_of_a_reference_set_merge_to_the_whole(parts, architecture, model, images):
    """With more parts than batches some are empty, and with three batches of 4, 4 and 2 they are unequal."""
    whole = statistics(model, images, SITES, architecture=architecture)
    config = StatisticsConfig(architecture, 4, 0, whole[0].sample.capacity, torch.float64)
    found = [
        find_statistics(model, images, sites_of(model), config, run=Run(cache=None, progress=False), part=(part, parts))
        for part in reversed(range(parts))
    ]
    merged = PartialStatistics(found[0].statistics)
    for other in found[1:]:
        merged.merge(PartialStatistics(other.statistics))
    for path, expected in zip(SITES, whole, strict=True):
        assert_is_whole(merged.statistics[path], expected)


@pytest.fixture
def in_group(group, model, images, tmp_path):
    """`find_statistics` in some processes, each with its own model and cache: what each found, and its model."""

    def call(count, paths=SITES, change=lambda rank, model, images: (model, images)):
        def process(rank):
            own, pictures = change(rank, Classifier(copy.deepcopy(model.module), PREPROCESS, CLASSES), images)
            sites = sites_of(own, paths)
            own.module.batches.clear()
            config = StatisticsConfig.of(own, sites, batch_size=4)
            run = Run(cache=Cache(tmp_path / f"cache{rank}"), progress=False)
            return find_statistics(own, pictures, sites, config, run=run), own

        return group(count, process)

    return call


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_group_finds_what_one_process_finds(count, in_group, model, images):
    whole = statistics(model, images, SITES)
    found = in_group(count)
    for rank, (each, own) in enumerate(found):
        assert was_computed(own) == (rank < 3)  # there are three batches
        for path, expected in zip(SITES, whole, strict=True):
            assert_is_whole(each.statistics[path], expected)
            assert torch.equal(each.statistics[path].moment.total, found[0][0].statistics[path].moment.total)


def test_what_a_group_computed_one_process_finds_in_the_cache_of_the_first(in_group, model, images, tmp_path):
    (first, _), _ = in_group(2)
    assert first.kept and first.computed == tuple(SITES)
    again = statistics(model, images, SITES, cache=Cache(tmp_path / "cache0"))
    assert not was_computed(model)
    for path, each in zip(SITES, again, strict=True):
        assert torch.equal(each.moment.total, first.statistics[path].moment.total)
        assert_is_whole(each, first.statistics[path])
    assert not (tmp_path / "cache1").exists()


def test_what_one_process_computed_a_group_finds_where_the_first_has_it(in_group, model, images, tmp_path):
    one = statistics(model, images, ["inner.2.0"], cache=Cache(tmp_path / "cache0"))[0]
    statistics(model, images, ["inner.6"], cache=Cache(tmp_path / "cache1"))  # of the others nobody asks
    for found, own in in_group(3, ["inner.2.0"]):
        assert not was_computed(own) and found.computed == ()
        assert torch.equal(found.statistics["inner.2.0"].moment.total, one.moment.total)
        assert_is_whole(found.statistics["inner.2.0"], one)
    for found, own in in_group(2, ["inner.6", "inner.2.0"]):
        assert was_computed(own) and found.computed == ("inner.6",)
        assert_is_whole(found.statistics["inner.2.0"], one)


def test_one_process_of_a_group_may_work_alone(model, images, monkeypatch):
    """A program that trains on many GPUs makes an edit in one of them: nobody is waited for, unless it says so."""

    def waits(_):
        raise RuntimeError("the others do not come")

    for name, result in {"is_initialized": True, "get_world_size": 2, "get_rank": 0, "get_backend": "gloo"}.items():
        monkeypatch.setattr(distributed, name, lambda result=result: result)
    monkeypatch.setattr(distributed, "all_reduce", waits)
    (alone,) = statistics(model, images, ["inner.0.0"])
    assert alone.moment.count > 0
    with group_scope(), pytest.raises(WorkerError, match="gone or late"):
        statistics(model, images, ["inner.0.0"])
    with pytest.raises(WorkerError, match="gone or late"):  # to call it is to say so
        alone.all_reduce()


def test_a_group_of_different_models_is_refused_in_all_processes(in_group, tmp_path):
    def change(rank, model, images):
        if rank == 1:
            model.module.inner[6].bias.data += 1
        return model, images

    for error in in_group(3, change=change):
        assert isinstance(error, SettingError) and "others in 1 than in 0" in str(error)
    assert not (tmp_path / "cache0").exists()


def test_a_group_of_different_numbers_of_pictures_is_refused(in_group):
    found = in_group(2, change=lambda rank, model, images: (model, ImageSet(images.pictures[rank:], "fewer")))
    assert all(isinstance(error, SettingError) and "number of images" in str(error) for error in found)


def test_pictures_that_another_machine_has_otherwise_make_no_wrong_hit(in_group, model, images, tmp_path, paint):
    """The second process reads an image that is another than the first one has of that name."""
    strange = paint(tmp_path / "strange.png", seed=99, size=(16, 16))
    others = ImageSet((*images.pictures[:5], Picture(strange), *images.pictures[6:]), "others")
    in_group(2, change=lambda rank, model, images: (model, others if rank == 1 else images))
    statistics(model, images, SITES, cache=Cache(tmp_path / "cache0"))
    assert was_computed(model)
    statistics(model, others, SITES, cache=Cache(tmp_path / "cache0"))
    assert not was_computed(model)  # what was read is what the key says


def test_what_fails_in_one_process_fails_in_all(in_group, tmp_path):
    def change(rank, model, images):
        if rank == 1:  # all its images are damaged
            (tmp_path / "damaged.png").write_bytes(b"no picture")
            images = ImageSet((Picture(tmp_path / "damaged.png"),) * len(images), "damaged")
        return model, images

    first, second, third = in_group(3, change=change)
    assert isinstance(second, FolderError) and "unreadable" in str(second)
    for error in (first, third):
        assert isinstance(error, WorkerError) and "1 of them failed" in str(error)


def test_a_group_keeps_no_statistics_that_lack_pictures(in_group, tmp_path, paint):
    sound = paint(tmp_path / "many" / "000.png")
    for i in range(1, 400):
        (sound.parent / f"{i:03}.png").symlink_to(sound)
    (sound.parent / "005.png").unlink()
    (sound.parent / "005.png").write_bytes(b"no picture")
    images = ImageSet.of(sound.parent, CLASSES)
    for found, _ in in_group(2, ["inner.6"], change=lambda rank, model, _: (model, images)):
        assert (found.skipped, found.statistics["inner.6"].moment.count) == (1, 399)
    assert not (tmp_path / "cache0").exists()

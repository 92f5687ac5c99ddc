"""Classifiers of Hugging Face: what transformers computes, from files that lie here."""

import dataclasses
import json
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from rulepatch.errors import MissingExtraError, ModelError, RulepatchWarning, WeightsError
from rulepatch.models.huggingface import read_processor
from rulepatch.models.preprocess import Preprocess
from rulepatch.models.registry import build, load_model, load_skeleton, save_weights
from rulepatch.models.timm_models import imagenet_classes
from rulepatch.tracing.sites import find_sites

pytestmark = pytest.mark.slow

transformers = pytest.importorskip("transformers")

NAMES = ("red", "green", "blue")


def pipeline(folder, image, **changes):
    """Logits as transformers computes them, from an image."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", **changes)
    module = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return module(**processor(images=image, return_tensors="pt")).logits


def ours(model, image):
    return model.logits(model.inputs(model.preprocess.pixels(image)[None]))


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_the_logits_are_those_of_transformers(kind, hf_folder, picture):
    folder = hf_folder(kind)
    model = load_model(f"hf/{folder}")
    for width, height in [(60, 40), (40, 90), (64, 64)]:  # whose margins are even
        expected = pipeline(folder, picture(width, height))
        torch.testing.assert_close(ours(model, picture(width, height)), expected, rtol=0, atol=1e-5)
        assert expected.abs().max() > 0.1
        other = pipeline(folder, picture(width, height), image_mean=[0.4] * 3)
        assert (other - expected).abs().max() > 1e-3  # a small difference of preprocessing would be seen
    assert model.classes.names == NAMES and model.classes.wordnet is None


def test_the_processor_that_transformers_takes_by_itself_rounds_pixels_otherwise_but_no_more(hf_folder, picture):
    folder = hf_folder("vit")
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    preprocess = load_skeleton(f"hf/{folder}").preprocess
    expected = processor(images=picture(60, 40), return_tensors="pt")["pixel_values"][0]
    assert (preprocess.normalise(preprocess.pixels(picture(60, 40))) - expected).abs().max() < 1.01 * 2 / 255


def test_nothing_is_reported_and_the_librarys_verbosity_is_left_as_it_was(hf_folder, capfd):
    folder = hf_folder("vit")
    logging = transformers.utils.logging
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    capfd.readouterr()
    load_model(f"hf/{folder}")
    load_skeleton(f"hf/{folder}")
    with pytest.raises(ModelError):
        load_model("hf/no/such")
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_a_skeleton_needs_no_weights(kind, hf_folder):
    folder = hf_folder(kind)
    (folder / "model.safetensors").unlink()
    skeleton = load_skeleton(f"hf/{folder}")
    assert skeleton.device.type == "meta"
    assert skeleton.logits(skeleton.example()).shape == (1, 3)


def test_projections_of_attention_are_sites(hf_folder):
    model = load_model(f"hf/{hf_folder('vit')}")
    paths = [site.path for site in find_sites(model.module, model.example()).sites]
    assert sum(path.endswith(("q_proj", "k_proj", "v_proj", "o_proj")) for path in paths) == 8


# Weights


def test_local_weights_go_by_the_names_of_the_network_and_by_those_they_were_published_under(hf_folder, tmp_path):
    folder = hf_folder("vit")
    model = load_model(f"hf/{folder}")
    own = model.module.state_dict()
    published = load_file(folder / "model.safetensors")
    assert published.keys() != own.keys()  # else this would show nothing
    save_weights(model.module, tmp_path / "own.safetensors")
    torch.save({"state_dict": published}, tmp_path / "published.bin")
    halves = {key: tensor.half() for key, tensor in published.items()}
    save_file(halves, tmp_path / "halves.safetensors")
    (folder / "model.safetensors").unlink()
    for file, tolerance in (("own.safetensors", 0), ("published.bin", 0), ("halves.safetensors", 1e-2)):
        other = load_model(f"hf/{folder}", weights=tmp_path / file)
        for key, tensor in other.module.state_dict().items():
            assert (tensor - own[key]).abs().max() <= tolerance, (file, key)
            assert tensor.dtype == torch.float32


def test_published_names_are_found_in_the_containers_and_wrappers_of_training(hf_folder, tmp_path):
    folder = hf_folder("vit")
    own = load_model(f"hf/{folder}").module.state_dict()
    published = load_file(folder / "model.safetensors")
    wrapped = {f"model.module.{key}": tensor for key, tensor in published.items()}
    torch.save({"epoch": 2, "state_dict": {**wrapped, "criterion.weight": torch.ones(3)}}, tmp_path / "last.ckpt")
    loaded = load_model(f"hf/{folder}", weights=tmp_path / "last.ckpt").module.state_dict()
    assert all(torch.equal(tensor, own[key]) for key, tensor in loaded.items())
    shifted = {key: tensor + 1 for key, tensor in published.items()}
    torch.save({"state_dict": published, "state_dict_ema": shifted}, tmp_path / "both.pth")
    with pytest.warns(RulepatchWarning, match=r"took state_dict and not state_dict_ema"):
        loaded = load_model(f"hf/{folder}", weights=tmp_path / "both.pth").module.state_dict()
    assert all(torch.equal(tensor, own[key]) for key, tensor in loaded.items())
    loaded = load_model(f"hf/{folder}", weights=f"{tmp_path / 'both.pth'}::state_dict_ema").module.state_dict()
    assert all(torch.equal(tensor, own[key] + 1) for key, tensor in loaded.items())


def test_networks_of_timm_behind_transformers(tmp_path, picture):
    config = {"architecture": "test_vit", "num_classes": 1000, "pretrained_cfg": {"input_size": [3, 160, 160]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    given = load_skeleton("timm/test_vit").module
    state = {key: torch.full(tensor.shape, 0.01) for key, tensor in given.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    model = load_model(f"hf/{tmp_path}", weights=tmp_path / "w.safetensors")
    assert all((tensor == 0.01).all() for tensor in model.module.state_dict().values())
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    expected = processor(picture(200, 240), return_tensors="pt")["pixel_values"][0]
    got = model.preprocess.normalise(model.preprocess.pixels(picture(200, 240)))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert model.classes.index("n01440764") == 0 and len(model.classes) == 1000


WRONG = {
    "no head": (lambda state: {key: state[key] for key in state if "classifier" not in key}, "lacks 2 of its tensors"),
    "another head": (lambda state: {**state, "classifier.bias": torch.ones(5)}, r"classifier.bias of shape \(3,\).*5"),
    "a deeper network": (
        lambda state: {**state, "vit.encoder.layer.2.output.dense.bias": torch.ones(16)},
        r"has 1 others \(such as vit",
    ),
    "whole numbers": (
        lambda state: {key: tensor.char() if key.endswith("dense.weight") else tensor for key, tensor in state.items()},
        r"dense\.weight as real numbers .*whole numbers \(int8\)",
    ),
    "another network": (lambda state: {"conv1.weight": torch.ones(3)}, "lacks"),
    "nothing": (lambda state: {}, "lacks"),
}


@pytest.mark.parametrize("name", WRONG)
def test_weights_that_do_not_fit_are_refused_not_made_up(name, hf_folder, tmp_path):
    folder = hf_folder("vit")
    change, message = WRONG[name]
    save_file(change(load_file(folder / "model.safetensors")), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=rf"(?s){message}") as caught:
        load_model(f"hf/{folder}", weights=tmp_path / "w.safetensors")
    assert "w.safetensors" in str(caught.value) and "\n" not in str(caught.value)


def test_a_classifier_without_a_trained_head_is_refused(hf_folder):
    folder = hf_folder("vit")
    state = load_file(folder / "model.safetensors")
    state = {key: tensor for key, tensor in state.items() if "classifier" not in key}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"lack 2 tensors \(such as classifier\.bias\).*head"):
        load_model(f"hf/{folder}")
    module = transformers.AutoModelForImageClassification.from_pretrained(folder)  # which makes one up
    assert module.classifier.bias.shape == (3,)


def test_pickles_are_not_read(hf_folder):
    folder = hf_folder()
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"as safetensors.*--weights \(pickles are not read\)") as caught:
        load_model(f"hf/{folder}")
    assert "\n" not in str(caught.value)
    load_model(f"hf/{folder}", weights=folder / "pytorch_model.bin")  # a state dict without other objects is safe


@pytest.mark.parametrize("content", [b"", b"abc", b"version https://git-lfs.github.com/spec/v1\n"])
def test_damaged_weights_are_refused(content, hf_folder):
    folder = hf_folder()
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="expected the weights"):
        load_model(f"hf/{folder}")


def test_halves_become_single_precision(hf_folder):
    folder = hf_folder("vit")
    state = {key: tensor.half() for key, tensor in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    assert load_model(f"hf/{folder}").dtype == load_skeleton(f"hf/{folder}").dtype == torch.float32


# Names and files


@pytest.mark.parametrize(
    "name", ["no/such", "no-such", "", "/no/such/folder", "./no/such/folder/here", "~/no-such-folder", "a b"]
)
def test_an_unknown_name_is_refused_in_one_sentence(name):
    for load in (load_model, load_skeleton):
        with pytest.raises(ModelError, match="give a local folder, hf/FOLDER, or check the name") as caught:
            load(f"hf/{name}")
        assert "\n" not in str(caught.value)


CONFIGS = {
    "no JSON": ('{"model_type": "vi', "config.json"),
    "an unknown kind": ('{"model_type": "no-such"}', "config.json"),
    "no kind": ("{}", "config.json"),
    "code": (
        '{"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModelForImageClassification": "mine.M"}}',
        "custom code",
    ),
    "no classifier of images": ('{"model_type": "bert"}', "image classifier"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_folder_of_something_else_is_refused(name, tmp_path):
    text, message = CONFIGS[name]
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "mine.py").write_text("raise SystemExit('code was run')")
    for load in (load_model, load_skeleton):
        with pytest.raises(ModelError, match=message) as caught:
            load(f"hf/{tmp_path}")
        assert "\n" not in str(caught.value)


def test_without_transformers_the_extra_is_named(hf_folder, monkeypatch):
    folder = hf_folder()
    monkeypatch.setitem(sys.modules, "transformers", None)
    for load in (load_model, load_skeleton):
        with pytest.raises(MissingExtraError, match=r"pip install 'rulepatch\[hf\]'"):
            load(f"hf/{folder}")


def test_arguments_go_to_the_configuration_and_folders_are_relative_to_a_model_file(hf_folder, tmp_path, monkeypatch):
    hf_folder("vit")
    (tmp_path / "m.toml").write_text('architecture = "hf/hf"\nclasses = ["r", "g", "b"]\nresize = 40\n')
    monkeypatch.chdir("/")
    model = load_model(str(tmp_path / "m.toml"))
    assert model.classes.names == ("r", "g", "b") and model.preprocess.resize == 40
    deeper = 'architecture = "hf/hf"\nkwargs = { num_hidden_layers = 3, num_labels = 2 }\nclasses = ["a", "b"]\n'
    (tmp_path / "m.toml").write_text(deeper)
    skeleton = load_skeleton(str(tmp_path / "m.toml"))
    assert len(skeleton.module.vit.layers) == 3 and skeleton.logits(skeleton.example()).shape == (1, 2)
    with pytest.raises(WeightsError):  # those of the folder are of two layers
        load_model(str(tmp_path / "m.toml"))
    monkeypatch.chdir(tmp_path)
    assert load_model("hf/hf").classes.names == NAMES
    (tmp_path / "m.toml").write_text('architecture = "hf/hf"\nkwargs = { no_such = 3 }\n')
    with pytest.raises(ModelError, match="no_such"):
        load_skeleton(str(tmp_path / "m.toml"))


def test_without_a_processor_a_model_file_must_say_how_pictures_are_prepared(hf_folder, tmp_path):
    folder = hf_folder("vit")
    (folder / "preprocessor_config.json").unlink()
    for load in (load_model, load_skeleton):
        with pytest.raises(ModelError, match=r"its preprocessing.*write a model file"):
            load(f"hf/{folder}")
    (tmp_path / "m.toml").write_text('architecture = "hf/hf"\ninput_size = 32\n')
    assert load_model(str(tmp_path / "m.toml")).preprocess == Preprocess((32, 32))


# Classes


def with_names(folder, names):
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": dict(enumerate(names)), "label2id": {}}
    (folder / "config.json").write_text(json.dumps(config))
    return load_skeleton(f"hf/{folder}").classes


def test_the_names_of_imagenet_come_with_wordnet_ids(hf_folder):
    folder = hf_folder()
    names = imagenet_classes().names
    variants = {
        "as they are": (names, 0),
        "the first of each": ([name.split(",")[0] for name in names], 0),
        "capitals and lines": ([name.split(", ")[-1].title().replace(" ", "_") for name in names], 0),
        "after a background": (["background", *names], 1),
    }
    for kind, (variant, first) in variants.items():
        classes = with_names(folder, variant)
        assert classes.index("n01440764") == first, kind
        assert classes.index("n15075141") == first + 999, kind
    for variant in (sorted(names), names[:999], [f"LABEL_{index}" for index in range(1000)]):
        assert with_names(folder, variant).wordnet is None


def test_as_many_names_as_logits(hf_folder, tmp_path):
    hf_folder("vit")
    (tmp_path / "m.toml").write_text('architecture = "hf/hf"\nclasses = ["a", "b"]\n')
    model = load_model(str(tmp_path / "m.toml"))
    with pytest.raises(ModelError, match=r"\(n, 2\).*\(1, 3\).*check the number of classes"):
        model.logits(model.example())


def test_classes_without_names_are_known_by_number(hf_folder):
    classes = with_names(hf_folder(), [f"LABEL_{index}" for index in range(3)])
    assert classes.index("LABEL_2") == classes.index("2") == classes.index(2) == 2


# Processors


def read_as(*given, **more):
    """What is read off a processor: it does the same to images of every size."""
    return Preprocess(*given, **more, keep_exact_size=False)


PROCESSORS = {
    "Beit": read_as((224, 224), 224, "bicubic", (0.5,) * 3, (0.5,) * 3, squash=True),
    "Bit": read_as(
        (224, 224), 224, "bicubic", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    ),
    "CLIP": read_as(
        (224, 224), 224, "bicubic", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    ),
    "ConvNext": read_as((384, 384), 384, "bicubic", (0.5,) * 3, (0.5,) * 3, squash=True),
    "DeiT": read_as((224, 224), 256, "bicubic", (0.5,) * 3, (0.5,) * 3, squash=True),
    "EfficientNet": read_as((346, 346), 346, "bicubic", (0.5,) * 3, (0.25,) * 3, squash=True),
    "Levit": read_as((224, 224), 256, "bicubic"),
    "MobileNetV1": read_as((224, 224), 256, "bilinear", (0.5,) * 3, (0.5,) * 3),
    "MobileNetV2": read_as((224, 224), 256, "bilinear", (0.5,) * 3, (0.5,) * 3),
    "PoolFormer": read_as((224, 224), 248, "bicubic"),
    "Pvt": read_as((224, 224), 224, "bicubic", squash=True),
    "Segformer": read_as((512, 512), 512, "bilinear", squash=True),
    "Siglip": read_as((224, 224), 224, "bicubic", (0.5,) * 3, (0.5,) * 3, squash=True),
    "ViT": read_as((224, 224), 224, "bilinear", (0.5,) * 3, (0.5,) * 3, squash=True),
}
CHANGED = {
    "ConvNext, small": ("ConvNext", {"size": {"shortest_edge": 224}}, {"resize": 256, "squash": False}),
    "EfficientNet, offset": (
        "EfficientNet",
        {"rescale_offset": True, "rescale_factor": 1 / 127.5, "include_top": False, "do_normalize": False},
        {"mean": (0.5,) * 3, "std": (0.5,) * 3},
    ),
    "EfficientNet, cropped": ("EfficientNet", {"do_center_crop": True}, {"input_size": (289, 289), "resize": 346}),
    "ViT, not normalised": ("ViT", {"do_normalize": False}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}),
    "ViT, not scaled": (
        "ViT",
        {"do_rescale": False, "image_mean": [102] * 3, "image_std": [51] * 3},
        {"mean": (0.4,) * 3, "std": (0.2,) * 3},
    ),
    "ViT, nearest": ("ViT", {"resample": 0}, {"interpolation": "nearest"}),
    "ViT, lanczos": ("ViT", {"resample": 1}, {"interpolation": "lanczos"}),
    "ViT, wide": ("ViT", {"size": {"height": 64, "width": 96}}, {"input_size": (64, 96), "resize": 64}),
    "CLIP of squares": ("CLIP", {"do_center_crop": False}, {}),
    "MobileViT of RGB": (
        "MobileViT",
        {"do_flip_channel_order": False, "size": {"shortest_edge": 288}},
        {"input_size": (256, 256), "resize": 288},
    ),
}


def processor_of(name, **settings):
    return getattr(transformers, f"{name}ImageProcessor")(**settings)


def prepared(processor, image):
    return processor(images=image, return_tensors="pt")["pixel_values"][0]


def smooth(picture, width, height):
    """An image as smooth as a photograph: of pure noise, only how a resize rounds would be seen."""
    return picture(width // 8, height // 8).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("name", [*PROCESSORS, *CHANGED])
def test_a_processor_is_repeated(name, picture):
    kind, written, changes = CHANGED.get(name, (name, {}, {}))
    processor = processor_of(kind, **written)
    preprocess = read_processor(processor)
    if name in PROCESSORS:
        assert dataclasses.replace(preprocess, odd_margins="even") == PROCESSORS[name]
    for key, value in changes.items():
        assert getattr(preprocess, key) == pytest.approx(value), key
    sizes = [(600, 600)] if name == "CLIP of squares" else [(600, 400), (400, 800), (227, 301)]
    for width, height in sizes:
        image = smooth(picture, width, height)
        got, expected = preprocess.normalise(preprocess.pixels(image)), prepared(processor, image)
        assert got.shape == expected.shape
        step = max(1 / (255 * std) for std in preprocess.std)
        assert (got - expected).abs().mean() < step  # the two round within the resize at different places
        beside = image.transform(image.size, Image.Transform.AFFINE, (1, 0, 4, 0, 1, 0))
        assert (preprocess.normalise(preprocess.pixels(beside)) - expected).abs().mean() > 2 * step


def test_odd_margins_are_rounded_as_the_library_rounds_them(picture):
    processor = processor_of("MobileNetV1")
    preprocess = read_processor(processor)
    others = dataclasses.replace(preprocess, odd_margins="even")
    told = 0
    for width in range(420, 430):
        image = smooth(picture, width, 300)
        expected = prepared(processor, image)
        got, beside = (each.normalise(each.pixels(image)) for each in (preprocess, others))
        assert (got - expected).abs().mean() < 1 / 255, width
        told += (beside - expected).abs().mean() > 1 / 255
    assert told > 0  # the control: torchvision's rounding is another


@pytest.mark.parametrize("side", range(60, 70))
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.95])
def test_processors_of_every_size_are_read_whatever_the_margins(side, crop_pct):
    preprocess = read_processor(processor_of("ConvNext", size={"shortest_edge": side}, crop_pct=crop_pct))
    assert preprocess.input_size == (side, side) and preprocess.resize == int(side / crop_pct)


OLD = {
    "resnet-50": (
        {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 224, "crop_pct": 0.875, "resample": 3},
        read_as((224, 224), 256, "bicubic"),
    ),
    "vit": (
        {"feature_extractor_type": "ViTFeatureExtractor", "size": 224, "resample": 2},
        read_as((224, 224), 224, "bilinear", squash=True),
    ),
    "deit": (
        {
            "feature_extractor_type": "DeiTFeatureExtractor",
            "size": 256,
            "resample": 3,
            "do_center_crop": True,
            "crop_size": 224,
        },
        read_as((224, 224), 256, "bicubic", squash=True),
    ),
    "fast": (
        {"image_processor_type": "ViTImageProcessorFast", "size": {"height": 32, "width": 32}, "resample": 2},
        read_as((32, 32), 32, "bilinear", squash=True),
    ),
}


@pytest.mark.parametrize("name", OLD)
def test_files_of_old_versions_are_read(name, hf_folder):
    folder = hf_folder("vit")
    written, expected = OLD[name]
    common = {"do_resize": True, "do_normalize": True, "image_mean": expected.mean, "image_std": expected.std}
    (folder / "preprocessor_config.json").write_text(json.dumps(common | written))
    with torch.device("meta"):
        found = build(f"hf/{folder}", pretrained=False).preprocess
    assert dataclasses.replace(found, odd_margins="even") == expected


FOREIGN = {
    "Donut": {},
    "ImageGPT": {},
    "MobileViT": {},
    "Perceiver": {},
    "PPLCNet": {},
    "Siglip2": {},
    "ViT, box": {"resample": 4},
    "ViT as it is": {"do_resize": False},
    "CLIP as it is": {"do_resize": False},
    "CLIP, longest": {"size": {"shortest_edge": 224, "longest_edge": 448}},
    "MobileNetV2, padded": {"size": {"shortest_edge": 200}},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_processor_with_steps_that_ours_has_not_is_not_read(name):
    kind = name.split(",")[0].split(" ")[0]
    if hasattr(transformers, f"{kind}ImageProcessor"):  # not every version has every one
        assert read_processor(processor_of(kind, **FOREIGN[name])) is None


def test_a_foreign_processor_asks_for_a_model_file(hf_folder, tmp_path):
    folder = hf_folder("vit")
    transformers.MobileViTImageProcessor().save_pretrained(folder)
    with pytest.raises(ModelError, match=r"its preprocessing.*write a model file"):
        load_skeleton(f"hf/{folder}")


def test_the_libraries_are_silent_for_a_while_and_then_as_before():
    import transformers
    from huggingface_hub.utils import logging as hub

    from rulepatch.models.huggingface import quiet

    before = hub.get_verbosity(), transformers.utils.logging.get_verbosity()
    with pytest.raises(KeyError), quiet(transformers):
        assert hub.get_verbosity() == transformers.utils.logging.get_verbosity() == hub.ERROR
        raise KeyError
    assert (hub.get_verbosity(), transformers.utils.logging.get_verbosity()) == before

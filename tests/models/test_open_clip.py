"""CLIP models as classifiers: what open_clip computes, from files of every form."""

import gc
import sys
import weakref

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from rulepatch.errors import MissingExtraError, ModelError, SettingError, WeightsError
from rulepatch.models import open_clip_models
from rulepatch.models.open_clip_models import ZeroShot, head_weight
from rulepatch.models.preprocess import Preprocess
from rulepatch.models.registry import build, load_model, load_skeleton, save_weights
from rulepatch.tracing.sites import find_sites

pytestmark = pytest.mark.slow

open_clip = pytest.importorskip("open_clip")

NAMES = ("red panda, Ailurus fulgens", "green", "a very deep and dark blue of the sea at night")
TEMPLATES = ["a photo of a {}.", "{}", "an origami {} in the style of a much longer sentence than the others."]


def whole(name, *, custom=False, seed=0, **settings):
    """A CLIP of open_clip, in evaluation mode, with features that differ from image to image and text to text."""
    torch.manual_seed(seed)
    clip = open_clip.create_model(name, force_custom_text=custom, **settings)
    for key, parameter in clip.named_parameters():
        if parameter.ndim > 1 and "embedding" not in key:
            parameter.data *= 3
        elif parameter.ndim == 1 and key.endswith("weight"):  # the last norm of each block of a ResNet begins as zero
            parameter.data.uniform_(0.5, 1.5)
    for key, tensor in clip.named_buffers():
        if key.endswith(("running_mean", "running_var")):
            tensor.uniform_(0.5, 1.5)
    return clip.eval()


def state_of(clip):
    return {key: tensor.clone() for key, tensor in clip.state_dict().items()}


@pytest.fixture
def model_file(tmp_path, clips):
    """Write a model file of a CLIP with three classes."""

    def write(name, **entries):
        lines = {"architecture": name, "classes": list(NAMES), **entries}
        text = "".join(f"{key} = {value!r}\n" for key, value in lines.items())
        (tmp_path / "clip.toml").write_text(f"{text}[kwargs]\ntemplates = {TEMPLATES}\n")
        return str(tmp_path / "clip.toml")

    return write


def classifier_of(clip, name, names, templates):
    """The head that open_clip makes, (c, classes)."""
    tokenizer = open_clip.get_tokenizer(name)
    return open_clip.build_zero_shot_classifier(clip, tokenizer, names, templates, num_classes_per_batch=2)


def logits_of(clip, name, image):
    """Logits as open_clip computes them, from an image."""
    transform = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**clip.visual.preprocess_cfg), is_train=False
    )
    head = classifier_of(clip, name, [label.split(",")[0] for label in NAMES], TEMPLATES)
    with torch.no_grad():
        return clip.logit_scale.exp() * clip.encode_image(transform(image)[None], normalize=True) @ head


def ours(model, image):
    return model.logits(model.inputs(model.preprocess.pixels(image)[None]))


@pytest.mark.parametrize("name", ["tiny-RN", "tiny-ViT", "tiny-custom", "tiny-CoCa"])
def test_the_logits_are_those_of_open_clip(name, model_file, picture, tmp_path):
    clip = whole(name)
    save_file(state_of(clip), tmp_path / "clip.safetensors")
    model = load_model(model_file(f"open_clip/{name}", weights="clip.safetensors"))
    for image in (picture(90, 70), picture(64, 64), picture(40, 100)):
        expected = logits_of(clip, name, image)
        torch.testing.assert_close(ours(model, image), expected, rtol=1e-5, atol=1e-5)
        assert expected.std() > 1e-2  # classes differ
    assert model.classes.names == NAMES
    assert model.module.head.weight.shape == (3, 12) and model.module.head.bias is None


def test_the_head_is_that_of_the_text_tower_for_prompts_of_all_lengths(clips):
    clip = whole("tiny-ViT", custom=True)
    names = ["a", "b c d e f", "g " * 30, ""]  # one is cut to what the tower reads
    tokens = torch.stack([open_clip.get_tokenizer("tiny-ViT")([t.format(name) for t in TEMPLATES]) for name in names])
    causal = clip.text.attn_mask
    got = head_weight(clip, tokens)
    assert clip.text.attn_mask is causal
    for row, texts in zip(got, tokens, strict=True):
        with torch.no_grad():
            features = torch.cat([F.normalize(clip.text(text[None]), dim=1) for text in texts])
            mean = features.mean(0)
            torch.testing.assert_close(row, clip.logit_scale.exp() * mean / mean.norm(), rtol=0, atol=1e-5)
    torch.testing.assert_close(got.norm(dim=1), clip.logit_scale.detach().exp().expand(4))
    assert (got[0] - got[1]).abs().max() > 0.1


def test_texts_are_not_cut_where_all_tokens_see_each_other(clips):
    clip = whole("tiny-custom")
    tokens = open_clip.get_tokenizer("tiny-custom")(["short"])[None]
    with torch.no_grad():
        expected = clip.encode_text(tokens[0], normalize=True)
        cut = F.normalize(clip.text(tokens[0][:, :5]), dim=1)
    scale = clip.logit_scale.detach().exp()
    torch.testing.assert_close(head_weight(clip, tokens), scale * expected, rtol=0, atol=1e-5)
    assert (cut - expected).abs().max() > 1e-3


def test_many_prompts_are_read_in_batches(clips, monkeypatch, capfd):
    clip = whole("tiny-ViT", custom=True)
    tokens = open_clip.get_tokenizer("tiny-ViT")([f"{'very ' * (i % 7)}thing {i}" for i in range(24)]).unflatten(
        0, (8, 3)
    )
    expected = head_weight(clip, tokens)
    monkeypatch.setattr(open_clip_models, "_BATCH", 5)
    torch.testing.assert_close(head_weight(clip, tokens), expected, rtol=0, atol=1e-5)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_imagenets_classes_and_openais_templates_are_the_rule(clips, monkeypatch, tmp_path):
    monkeypatch.setattr(open_clip, "OPENAI_IMAGENET_TEMPLATES", open_clip.OPENAI_IMAGENET_TEMPLATES[:2])  # of 80
    clip = whole("tiny-ViT")
    save_file(state_of(clip), tmp_path / "clip.safetensors")
    model = load_model("open_clip/tiny-ViT", weights=tmp_path / "clip.safetensors")
    templates = open_clip.OPENAI_IMAGENET_TEMPLATES
    head = classifier_of(clip, "tiny-ViT", open_clip.IMAGENET_CLASSNAMES, templates)
    expected = clip.logit_scale.detach().exp() * head.T
    torch.testing.assert_close(model.module.head.weight, expected, rtol=0, atol=1e-4)  # of 14, the scale
    classes = model.classes
    assert classes.index("n01440764") == classes.index("tench") == 0 and classes.index("n02012849") == 134
    assert classes.index("construction crane") == 517  # ImageNet itself calls both of them crane


# Weights


def of_openai(state):
    sizes = {key: torch.tensor(1) for key in ("input_resolution", "context_length", "vocab_size")}
    return {key: tensor.half() for key, tensor in state.items()} | sizes


FORMS = {
    "as it is": lambda state: state,
    "text in a tower of its own": open_clip.model.convert_to_custom_text_state_dict,
    "on several devices": lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
    "of training": lambda state: {
        "epoch": 3,
        "name": "run",
        "state_dict": {f"module.{k}": t for k, t in state.items()},
    },
    "a scale in a list": lambda state: {**state, "logit_scale": state["logit_scale"][None]},
}


@pytest.mark.parametrize("name", ["tiny-RN", "tiny-ViT"])
@pytest.mark.parametrize("form", FORMS)
def test_whole_clips_are_read_as_people_save_them(name, form, model_file, tmp_path):
    state = state_of(whole(name))
    save_file(state, tmp_path / "plain.safetensors")
    torch.save(FORMS[form](state), tmp_path / "other.pt")
    plain, other = (
        load_model(model_file(f"open_clip/{name}"), weights=tmp_path / f) for f in ("plain.safetensors", "other.pt")
    )
    assert all(torch.equal(tensor, other.module.state_dict()[key]) for key, tensor in plain.module.state_dict().items())
    assert all(
        torch.equal(tensor, state[key]) for key, tensor in plain.module.state_dict().items() if key != "head.weight"
    )


def test_halves_of_openai_become_single_precision(model_file, tmp_path):
    state = state_of(whole("tiny-RN"))
    save_file(state, tmp_path / "plain.safetensors")
    save_file(of_openai(state), tmp_path / "openai.safetensors")
    plain, other = (
        load_model(model_file("open_clip/tiny-RN"), weights=tmp_path / f"{n}.safetensors") for n in ("plain", "openai")
    )
    assert other.dtype == torch.float32
    torch.testing.assert_close(other.module.head.weight, plain.module.head.weight, rtol=0, atol=0.05)


def test_the_text_tower_of_the_file_makes_the_head(model_file, tmp_path):
    state = state_of(whole("tiny-ViT"))
    save_file(state, tmp_path / "one.safetensors")
    state["ln_final.bias"] += torch.randn(16)
    save_file(state, tmp_path / "two.safetensors")
    one, two = (
        load_model(model_file("open_clip/tiny-ViT"), weights=tmp_path / f"{n}.safetensors") for n in ("one", "two")
    )
    for key, tensor in one.module.state_dict().items():
        assert torch.equal(tensor, two.module.state_dict()[key]) == (key != "head.weight")


@pytest.mark.parametrize("name", ["tiny-RN", "tiny-custom"])
def test_a_classifier_that_was_saved_is_loaded_again_without_its_text_tower(name, model_file, tmp_path, monkeypatch):
    save_file(state_of(whole(name)), tmp_path / "clip.safetensors")
    model = load_model(model_file(f"open_clip/{name}"), weights=tmp_path / "clip.safetensors")
    save_weights(model.module, tmp_path / "edited.safetensors")
    monkeypatch.setattr(open_clip_models, "head_weight", None)  # calling it would fail
    again = load_model(model_file(f"open_clip/{name}"), weights=tmp_path / "edited.safetensors")
    assert all(torch.equal(tensor, again.module.state_dict()[key]) for key, tensor in model.module.state_dict().items())
    assert not any(key.startswith(("text", "transformer", "token")) for key in again.module.state_dict())


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_a_checkpoint_of_open_clips_training_is_read(prefix, model_file, tmp_path):
    state = state_of(whole("tiny-ViT"))
    save_file(state, tmp_path / "clip.safetensors")
    expected = load_model(model_file("open_clip/tiny-ViT"), weights=tmp_path / "clip.safetensors").module.state_dict()
    wrapped = {prefix + key: tensor for key, tensor in state.items()}
    optimiser = {"state": {0: {"step": torch.ones(1), "exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    torch.save(
        {"epoch": 3, "name": "run", "state_dict": wrapped, "optimizer": optimiser, "scaler": {}},
        tmp_path / "epoch_3.pt",
    )
    loaded = load_model(model_file("open_clip/tiny-ViT"), weights=tmp_path / "epoch_3.pt").module.state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in loaded.items())


def test_the_text_tower_is_not_kept(clips, tmp_path, monkeypatch):
    save_file(state_of(whole("tiny-ViT")), tmp_path / "clip.safetensors")
    monkeypatch.setattr(open_clip, "OPENAI_IMAGENET_TEMPLATES", ("{}",))
    monkeypatch.setattr(open_clip, "IMAGENET_CLASSNAMES", ("a", "b"))
    towers = []
    make = open_clip.CustomTextCLIP

    def watched(**settings):
        clip = make(**settings)
        towers.append(weakref.ref(clip.text))
        return clip

    monkeypatch.setattr(open_clip, "CustomTextCLIP", watched)
    model = load_model("open_clip/tiny-ViT", weights=tmp_path / "clip.safetensors")
    gc.collect()
    assert [tower() for tower in towers] == [None] and isinstance(model.module, ZeroShot)


def without(key):
    return lambda state: {name: tensor for name, tensor in state.items() if name != key}


WRONG = {
    "no text": (lambda state: {key: state[key] for key in state if key.startswith("visual.")}, "text tower"),
    "a tensor of the text missing": (without("ln_final.weight"), r"1 tensors of the text.*text\.ln_final\.weight"),
    "a tensor of the text too many": (lambda state: {**state, "extra": torch.ones(1)}, r"1 tensors of the text.*extra"),
    "another text": (lambda state: {**state, "token_embedding.weight": torch.ones(9, 16)}, "token_embedding"),
    "a wider text": (lambda state: {**state, "positional_embedding": torch.ones(20, 24)}, "positional_embedding"),
    "a tensor of the image missing": (without("visual.conv1.weight"), r"lacks 1 .*visual\.conv1\.weight"),
    "another image": (lambda state: {**state, "visual.conv1.weight": torch.ones(16, 3, 4, 4)}, "visual.conv1.weight"),
    "something else": (lambda state: {"conv1.weight": torch.ones(3)}, "text tower"),
    "nothing": (lambda state: {}, "text tower"),
    "a head of other classes": (
        lambda state: {**{k: state[k] for k in state if k.startswith("visual.")}, "head.weight": torch.ones(5, 12)},
        r"head.weight of shape \(3, 12\).*\(5, 12\)",
    ),
    "not a number": (lambda state: {**state, "visual.ln_post.bias": torch.full((16,), torch.nan)}, "NaN"),
    "not a number in the text": (lambda state: {**state, "ln_final.bias": torch.full((16,), torch.nan)}, "NaN"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_weights_that_do_not_fit_are_refused(kind, model_file, tmp_path):
    change, message = WRONG[kind]
    save_file(change(state_of(whole("tiny-ViT"))), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=message) as caught:
        load_model(model_file("open_clip/tiny-ViT"), weights=tmp_path / "w.safetensors")
    assert "\n" not in str(caught.value)


def test_positions_are_resized_as_open_clip_does(model_file, picture, tmp_path):
    clip = whole("tiny-ViT")
    save_file(state_of(clip), tmp_path / "clip.safetensors")
    path = model_file("open_clip/tiny-ViT", weights="clip.safetensors")
    with (tmp_path / "clip.toml").open("a") as file:
        file.write("vision_cfg = { image_size = 48 }\n")
    model = load_model(path)
    larger = whole("tiny-ViT", seed=1, force_image_size=48)
    open_clip.load_checkpoint(larger, str(tmp_path / "clip.safetensors"))
    assert model.preprocess.input_size == (48, 48)
    torch.testing.assert_close(
        ours(model, picture(90, 70)), logits_of(larger, "tiny-ViT", picture(90, 70)), rtol=1e-5, atol=1e-5
    )


# Published weights and the activation that they were trained with

TAGS = {
    "openai": {"url": "", "quick_gelu": True, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)},
    "plain_tag": {"hf_hub": "no/such/", "interpolation": "bilinear", "resize_mode": "squash"},
}


@pytest.fixture
def published(monkeypatch, clips, tmp_path):
    """Give the small models published weights, as if they had been downloaded."""
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-ViT", dict(TAGS))
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-RN", {"plain_tag": TAGS["plain_tag"]})
    save_file(state_of(whole("tiny-ViT")), tmp_path / "openai.safetensors")
    save_file(state_of(whole("tiny-ViT", seed=1)), tmp_path / "plain_tag.safetensors")
    files = {id(TAGS[tag]): str(tmp_path / f"{tag}.safetensors") for tag in TAGS}
    monkeypatch.setattr(open_clip, "download_pretrained", lambda config: files[id(config)])
    return tmp_path


def quick(module):
    return any(isinstance(each, open_clip.transformer.QuickGELU) for each in module.modules())


@pytest.mark.parametrize(
    ("name", "tag", "quick_gelu"),
    [
        ("tiny-ViT", "openai", True),
        ("tiny-ViT/openai", "openai", True),
        ("tiny-ViT/plain_tag", "plain_tag", False),
        ("tiny-ViT/plain-tag", "plain_tag", False),
    ],
)
def test_published_weights_run_with_the_activation_they_were_trained_with(
    name, tag, quick_gelu, published, model_file, picture
):
    clip = whole("tiny-ViT", force_quick_gelu=quick_gelu, force_preprocess_cfg=TAGS[tag])
    open_clip.load_checkpoint(clip, str(published / f"{tag}.safetensors"))
    path = model_file(f"open_clip/{name}")
    model = load_model(path)
    image = picture(90, 70)
    torch.testing.assert_close(ours(model, image), logits_of(clip, "tiny-ViT", image), rtol=1e-5, atol=1e-5)
    assert quick(model.module) == quick(load_skeleton(path).module) == quick_gelu
    assert load_skeleton(path).preprocess == model.preprocess
    # The name alone says what the network is: the same weights from a file are the same classifier.
    other = load_model(path, weights=published / f"{tag}.safetensors")
    assert torch.equal(ours(other, image), ours(model, image))
    wrong = whole("tiny-ViT", force_quick_gelu=not quick_gelu, force_preprocess_cfg=TAGS[tag])
    open_clip.load_checkpoint(wrong, str(published / f"{tag}.safetensors"))
    assert (logits_of(wrong, "tiny-ViT", image) - ours(model, image)).abs().max() > 1e-3


def test_the_activation_can_be_chosen(published, model_file, tmp_path):
    path = model_file("open_clip/tiny-ViT")
    with (tmp_path / "clip.toml").open("a") as file:
        file.write("quick_gelu = false\n")
    assert not quick(load_skeleton(path).module)


@pytest.mark.parametrize(
    ("name", "quick_gelu"),
    [
        ("RN50", True),
        ("RN50/openai", True),
        ("RN50-quickgelu", True),
        ("RN50-quickgelu/cc12m", True),
        ("ViT-B-32", True),
        ("ViT-B-32/laion400m_e32", True),
        ("ViT-B-32/laion2b_s34b_b79k", False),
        ("ViT-B-16-SigLIP", False),
        ("ViT-S-16", False),
    ],
)
def test_a_name_stands_for_one_activation_whatever_the_file(name, quick_gelu, monkeypatch):
    made = []
    make = open_clip.CustomTextCLIP
    monkeypatch.setattr(open_clip, "CustomTextCLIP", lambda **settings: made.append(make(**settings)) or made[-1])
    with torch.device("meta"):
        build(f"open_clip/{name}", pretrained=False)
    assert quick(made[0].text) == quick_gelu


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "random"])
@pytest.mark.parametrize("size", [32, (32, 48)])
def test_pictures_are_prepared_as_open_clip_does(mode, interpolation, size, picture, clips, monkeypatch):
    tag = {"resize_mode": mode, "interpolation": interpolation, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-ViT", {"tag": tag})
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS["tiny-ViT"]["vision_cfg"], "image_size", size)
    if mode == "shortest" and size != 32:
        with pytest.raises(ModelError, match=r"its preprocessing.*write a model file"):
            load_skeleton("open_clip/tiny-ViT")
        return
    preprocess = load_skeleton("open_clip/tiny-ViT").preprocess
    config = open_clip.transform.PreprocessCfg(size=size, **tag)
    transform = open_clip.transform.image_transform_v2(config, is_train=False)
    for width, height in [(90, 70), (40, 100), (32, 32)]:
        image = picture(width, height)
        assert torch.equal(preprocess.normalise(preprocess.pixels(image)), transform(image))
    other = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(size=size), is_train=False)
    assert not torch.equal(other(image), transform(image))


def test_a_padded_picture_asks_for_a_model_file(clips, monkeypatch, tmp_path):
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-ViT", {"tag": {"resize_mode": "longest"}})
    with pytest.raises(ModelError, match=r"its preprocessing.*write a model file"):
        load_skeleton("open_clip/tiny-ViT")
    (tmp_path / "m.toml").write_text('architecture = "open_clip/tiny-ViT"\ninput_size = 32\n')
    assert load_skeleton(str(tmp_path / "m.toml")).preprocess == Preprocess((32, 32))


# Names, arguments and what is not there


@pytest.mark.parametrize("name", ["tiny-RN", "tiny-ViT", "tiny-custom", "tiny-CoCa"])
def test_a_skeleton_encodes_no_text_and_takes_no_memory(name, model_file, monkeypatch):
    monkeypatch.setattr(open_clip_models, "head_weight", None)  # calling it would fail
    skeleton = load_skeleton(model_file(f"open_clip/{name}"))
    assert skeleton.device.type == "meta"
    assert skeleton.logits(skeleton.example()).shape == (1, 3)
    assert "head" in [site.path for site in find_sites(skeleton.module, skeleton.example()).sites]


@pytest.mark.parametrize("name", ["RN50", "ViT-B-32", "ViT-B-16-SigLIP", "coca_ViT-B-32", "convnext_base"])
def test_real_models_have_skeletons_offline(name):
    skeleton = load_skeleton(f"open_clip/{name}")
    assert skeleton.device.type == "meta" and len(skeleton.classes) == 1000
    assert skeleton.preprocess.input_size == (224, 224)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("RN5", "RN50"),
        ("ViT-B-23", "ViT-B-32"),
        ("ViT-B/32", ""),
        ("", ""),
        ("RN50/opnai", "openai"),
        ("ViT-B-32/laion2b", "laion2b_e16"),
        ("ViT-S-16/openai", "none"),
        ("hf-hub:no/such", ""),
    ],
)
def test_an_unknown_name_or_tag_is_refused_and_the_nearest_named(name, nearest):
    for load in (load_model, load_skeleton):
        with pytest.raises(ModelError, match="the nearest are") as caught:
            load(f"open_clip/{name}")
        assert nearest in str(caught.value).split("nearest")[1]


def test_weights_that_cannot_be_had_are_asked_for(clips, tmp_path, monkeypatch):
    monkeypatch.setattr("open_clip.pretrained.download_pretrained_from_url", None)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-RN", {"tag": TAGS["plain_tag"]})
    with pytest.raises(WeightsError, match=r"could not be downloaded.*--weights") as caught:
        load_model("open_clip/tiny-RN")
    assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match=r"open_clip knows none.*--weights"):
        load_model("open_clip/tiny-ViT")


def test_a_tokenizer_or_text_tower_of_another_library_that_is_not_here_is_named(clips, monkeypatch, tmp_path):
    with pytest.raises(ModelError, match=r"could not be.*name another"):
        load_skeleton("open_clip/roberta-ViT-B-32")
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS["tiny-ViT"]["text_cfg"], "hf_tokenizer_name", "no/such")
    save_file(state_of(whole("tiny-ViT")), tmp_path / "clip.safetensors")
    with pytest.raises(ModelError, match="tokenizer of open_clip/tiny-ViT"):
        load_model("open_clip/tiny-ViT", weights=tmp_path / "clip.safetensors")


def test_without_open_clip_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    for load in (load_model, load_skeleton):
        with pytest.raises(MissingExtraError, match=r"pip install 'rulepatch\[clip\]'"):
            load("open_clip/RN50")


@pytest.mark.parametrize(
    "kwargs",
    [
        'templates = "a photo of a {}."',
        "templates = []",
        'templates = ["a photo"]',
        'templates = ["{} and {}"]',
        "templates = [3]",
        "templates = 3",
        "no_such = 3",
        "vision_cfg = { no_such = 3 }",
        "embed_dim = 'twelve'",
    ],
)
def test_arguments_that_it_does_not_take_are_refused(kwargs, clips, tmp_path):
    (tmp_path / "m.toml").write_text(f'architecture = "open_clip/tiny-ViT"\n[kwargs]\n{kwargs}\n')
    with pytest.raises(ModelError, match="expected") as caught:
        load_skeleton(str(tmp_path / "m.toml"))
    assert "\n" not in str(caught.value)


def test_braces_in_names_and_templates_are_taken_as_they_are(model_file, tmp_path):
    clip = whole("tiny-ViT")
    save_file(state_of(clip), tmp_path / "clip.safetensors")
    path = tmp_path / "m.toml"
    path.write_text(
        'architecture = "open_clip/tiny-ViT"\nweights = "clip.safetensors"\nclasses = ["{0}", "b"]\n'
        'kwargs = { templates = ["{x} {}"] }\n'
    )
    with torch.no_grad():
        texts = open_clip.get_tokenizer("tiny-ViT")(["{x} {0}", "{x} b"])
        expected = clip.logit_scale.exp() * clip.encode_text(texts, normalize=True)
    torch.testing.assert_close(load_model(str(path)).module.head.weight.data, expected, rtol=0, atol=1e-5)


def test_a_class_that_is_asked_for_is_one_of_the_files(model_file, tmp_path):
    save_file(state_of(whole("tiny-ViT")), tmp_path / "clip.safetensors")
    model = load_model(model_file("open_clip/tiny-ViT"), weights=tmp_path / "clip.safetensors")
    assert model.classes.index("red panda") == model.classes.index("ailurus fulgens") == 0
    with pytest.raises(SettingError):
        model.classes.index("tench")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RN50", "ViT-B-32"])
def test_models_of_full_size(name, picture, tmp_path):
    clip = whole(name, force_quick_gelu=True)
    save_file(state_of(clip), tmp_path / "clip.safetensors")
    (tmp_path / "m.toml").write_text(
        f'architecture = "open_clip/{name}"\nweights = "clip.safetensors"\nclasses = {list(NAMES)}\n'
        f"kwargs = {{ templates = {TEMPLATES} }}\n"
    )
    model = load_model(str(tmp_path / "m.toml"))
    expected = logits_of(clip, name, picture(300, 260))
    torch.testing.assert_close(ours(model, picture(300, 260)), expected, rtol=1e-4, atol=1e-4)

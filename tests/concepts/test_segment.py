"""What every registered segmenter promises, and networks whose answer is planted."""

import json
import shutil
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from rulepatch.concepts import segment as registry
from rulepatch.concepts.match import Key, key_of_concept
from rulepatch.concepts.segment import Region, concept_mask, entries_of, load_segmenter, segmenter, segmenters
from rulepatch.concepts.segmenters.checkpoints import Checkpoint
from rulepatch.concepts.segmenters.context import ContextMatch
from rulepatch.concepts.segmenters.grounded_sam import GroundedSAM
from rulepatch.concepts.segmenters.mask_files import MaskFiles
from rulepatch.concepts.segmenters.torchvision_models import InstanceSegmenter, SemanticSegmenter
from rulepatch.core.edit import Edit
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.errors import (
    BaseMismatchError,
    FolderError,
    ImageError,
    MissingExtraError,
    ModelError,
    RulepatchError,
    SettingError,
    WeightsError,
)
from rulepatch.images import read_image
from rulepatch.models.classifier import Classifier
from rulepatch.models.preprocess import Preprocess
from rulepatch.models.registry import load_model, save_weights
from rulepatch.playground.pictures import exemplar, image_set, picture_of, training_images
from rulepatch.playground.scenes import CONCEPTS, default_style, render

pytestmark = pytest.mark.slow

every_segmenter = pytest.mark.parametrize("kind", segmenters())
FAINT = 1e-6
"""A threshold that networks with random weights reach."""


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """No test reaches for the network; the hub's libraries know that it is not there."""

    def refuse(*args, **kwargs):
        raise OSError("no network")

    if "huggingface_hub" in sys.modules:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def load(sample, **settings):
    return load_segmenter(sample.name, **{**sample.settings, **settings})


def answers(found, sample, concepts=None):
    """For each image: the image, and its regions by concept."""
    for source in sample.pictures:
        image = read_image(source) if isinstance(source, Path) else source
        yield image, found.segment(Picture(source), image, concepts or sample.concepts)


# The contract


@pytest.mark.slow
@every_segmenter
@pytest.mark.parametrize("threshold", [None, FAINT])
def test_regions_are_of_the_pictures_size_and_in_order(kind, threshold, segmenter_sample):
    sample = segmenter_sample(kind)
    found = load(sample, threshold=threshold)
    assert threshold in (None, found.threshold) and 0 < found.threshold <= 1
    some = 0
    for image, regions in answers(found, sample):
        assert tuple(regions) == sample.concepts
        for each in regions.values():
            assert [region.score for region in each] == sorted((region.score for region in each), reverse=True)
            for region in each:
                assert region.probability.shape == (image.height, image.width)
                assert region.probability.dtype == np.float32 and isinstance(region.score, float)
                assert region.probability.min() >= 0 and found.threshold <= region.probability.max() <= 1
                assert 0 <= region.score <= 1
                some += 1
    assert some or threshold is None


@pytest.mark.slow
@every_segmenter
def test_nothing_is_changed_and_the_answer_is_the_same_again(kind, segmenter_sample):
    sample = segmenter_sample(kind)
    first, second = load(sample, threshold=FAINT), load(sample, threshold=FAINT)
    before = [source.read_bytes() if isinstance(source, Path) else source.tobytes() for source in sample.pictures]
    told = first.describe()
    for (image, one), (_, other), (_, alone) in zip(
        answers(first, sample), answers(second, sample), answers(first, sample, sample.concepts[:1]), strict=True
    ):
        for concept in sample.concepts:
            assert [region.score for region in one[concept]] == [region.score for region in other[concept]]
            for a, b in zip(one[concept], other[concept], strict=True):
                assert np.array_equal(a.probability, b.probability)
        (only,) = alone.values()  # what else is asked for does not matter
        for a, b in zip(one[sample.concepts[0]], only, strict=True):
            np.testing.assert_allclose(a.probability, b.probability, atol=1e-5)
        assert first.segment(Picture(sample.pictures[0]), image, []) == {} or kind == "files"
    after = [source.read_bytes() if isinstance(source, Path) else source.tobytes() for source in sample.pictures]
    assert before == after
    assert first.describe() == told == second.describe()


@pytest.mark.slow
@every_segmenter
def test_descriptions_tell_apart_what_answers_otherwise(kind, segmenter_sample):
    one = load(segmenter_sample(kind))
    told = json.loads(json.dumps(one.describe()))
    assert told["segmenter"] == kind and told == one.describe()
    assert load(segmenter_sample(kind), threshold=0.123).describe() != told
    if kind != "playground":  # which has no weights
        other = load(segmenter_sample(kind, 1)).describe()
        assert other != told and other.keys() == told.keys()


@every_segmenter
def test_concepts_that_are_not_known_are_refused(kind, segmenter_sample):
    sample = segmenter_sample(kind)
    found = load(sample)
    for unknown in ("", "  ") if found.vocabulary is None else ("", "roadd", "background"):
        with pytest.raises(SettingError, match=r"^expected a concept .* but got") as caught:
            list(answers(found, sample, (*sample.concepts, unknown)))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["clipseg", "mask2former", "oneformer", "sam3"])
def test_a_folder_says_the_same_wherever_it_lies(kind, segmenter_sample, tmp_path):
    sample = segmenter_sample(kind)
    shutil.copytree(sample.name.partition("/")[2], tmp_path / "moved")
    moved = load_segmenter(f"{kind}/{tmp_path / 'moved'}")
    assert moved.describe() == load(sample).describe()
    assert str(tmp_path) not in json.dumps(moved.describe())
    path = next((tmp_path / "moved").glob("*processor_config.json"))
    settings = json.loads(path.read_text())
    settings.get("image_processor", settings)["image_mean"] = [0.4] * 3  # images are prepared otherwise
    path.write_text(json.dumps(settings))
    assert load_segmenter(f"{kind}/{tmp_path / 'moved'}").describe() != moved.describe()


# Loading


def test_a_segmenter_is_registered_by_its_file(monkeypatch):
    monkeypatch.setattr(registry._SEGMENTERS, "_objects", dict(registry._SEGMENTERS._objects))
    segmenter("own")(lambda request: request)
    assert "own" in segmenters()
    assert load_segmenter("own/a/b", threshold=0.5).name == "a/b"


WRONG = {
    "clip": (SettingError, "clipseg"),
    "clipseg/no/such/folder": (WeightsError, "no/such/folder.*name their folder, clipseg/FOLDER"),
    "clipseg": (WeightsError, "CIDAS/clipseg-rd64-refined but they are not here"),
    "sam3": (WeightsError, "facebook/sam3 but they are not here"),
    "grounded-sam": (WeightsError, r"IDEA-Research/grounding-dino-tiny.*DETECTOR_FOLDER\+SAM_FOLDER"),
    "grounded-sam/only-one": (SettingError, "join both"),
    "mask2former": (SettingError, "mask2former/CHECKPOINT"),
    "torchvision/resnet18": (ModelError, "makes masks"),
    "torchvision/fasterrcnn_resnet50_fpn": (ModelError, "makes masks.*maskrcnn_resnet50_fpn"),
    "files": (SettingError, "files/FOLDER"),
    "files/no/such": (FolderError, "there is none"),
    "playground/x": (SettingError, "leave the rest out"),
    "context": (SettingError, "context/EDIT.safetensors"),
    "context/edit.safetensors": (SettingError, "expected a model"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_loaded_is_said_in_one_sentence(name):
    pytest.importorskip("transformers")
    kind, message = WRONG[name]
    with pytest.raises(kind, match=message) as caught:
        load_segmenter(name)
    assert str(caught.value).startswith("expected ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("threshold", [0, -1, 1.1, float("nan")])
def test_thresholds_are_probabilities(threshold):
    with pytest.raises(SettingError, match="above 0 and at most 1"):
        load_segmenter("playground", threshold=threshold)


def test_without_the_extra_its_name_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"rulepatch\[hf\]"):
        load_segmenter("clipseg")


def test_devices_and_weights_that_are_not_there(segmenter_sample, tmp_path):
    sample = segmenter_sample("clipseg")
    with pytest.raises(SettingError, match="a device that is here"):
        load(sample, device="nonsense")
    with pytest.raises(SettingError, match="no file of weights"):
        load(sample, weights=tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="no such file"):
        load_segmenter("torchvision/lraspp_mobilenet_v3_large", weights=tmp_path / "w.safetensors")


def _without(*names):
    def change(folder):
        for name in names:
            (folder / name).unlink()

    return change


def _without_a_layer(folder):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    kept = {key: tensor for key, tensor in state.items() if "film_mul" not in key}
    assert len(kept) < len(state)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


INCOMPLETE = {
    "no words": (_without("tokenizer.json"), ModelError, "tokenizer of about 514 words|come with its processor"),
    "no processor": (_without("processor_config.json"), ModelError, "processor|tokenizer"),
    "no weights": (_without("model.safetensors"), WeightsError, "safetensors"),
    "no config": (_without("config.json"), WeightsError, "config.json"),
    "a layer that was never trained": (_without_a_layer, WeightsError, "lacks 2 tensors .*film_mul"),
    "another network": (lambda folder: None, RulepatchError, "Sam3Model"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", INCOMPLETE)
def test_incomplete_folders_are_refused_not_filled_up(what, segmenter_sample, tmp_path):
    shutil.copytree(segmenter_sample("clipseg").name.partition("/")[2], tmp_path / "folder")
    change, kind, message = INCOMPLETE[what]
    change(tmp_path / "folder")
    with pytest.raises(kind, match=message) as caught:
        load_segmenter(f"{'sam3' if what == 'another network' else 'clipseg'}/{tmp_path / 'folder'}")
    assert "\n" not in str(caught.value)


def test_an_edit_is_looked_for_in_its_base_alone(segmenter_sample):
    sample = segmenter_sample("context")
    other = load_model("playground")
    other.module.head.bias.data += 1
    with pytest.raises(BaseMismatchError):
        load(sample, model=other)
    with pytest.raises(SettingError, match="a reference set"):
        load(sample, reference=None)


@pytest.mark.slow
def test_mask_rcnn_is_loaded_from_local_weights(tmp_path):
    from torchvision import models

    given = models.get_model("maskrcnn_resnet50_fpn", weights=None, weights_backbone=None, num_classes=91)
    save_weights(given, tmp_path / "w.safetensors")
    found = load_segmenter("torchvision/maskrcnn_resnet50_fpn", weights=tmp_path / "w.safetensors")
    assert isinstance(found, InstanceSegmenter) and len(found.vocabulary) == 80 and "stop sign" in found.vocabulary
    state = found.module.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in given.state_dict().items())


# Planted answers: networks that take what is red in their own input for the concept "red"

RED = (slice(6, 26), slice(50, 80))
"""Rows and columns of a red rectangle in an image of 40 by 100."""


def red_picture():
    pixels = np.full((40, 100, 3), 80, np.uint8)
    pixels[RED] = (255, 0, 0)
    return Image.fromarray(pixels)


def overlap(mask, where=RED):
    """Intersection over union with a rectangle."""
    expected = np.zeros(mask.shape, bool)
    expected[where] = True
    return (expected & (mask > 0)).sum() / (expected | (mask > 0)).sum()


def redness(pixels):
    """Logits of being red of normalised pixels, (n, h, w)."""
    return 10 * (pixels[:, 0] - pixels[:, 1] - 1)


class Planted(nn.Module):
    """Stands for a network whose answer is known."""

    def __init__(self, config, answer):
        super().__init__()
        self.config, self.answer = config, answer
        self.device = torch.device("cpu")

    def forward(self, **inputs):
        return SimpleNamespace(**self.answer(**inputs))


def planted(checkpoint, answer):
    return Checkpoint("local", Planted(checkpoint.module.config, answer), checkpoint.processor)


def is_red(checkpoint, ids):
    return "red" in checkpoint.processor.tokenizer.decode(ids)


def found_red(segmenter, concepts=("red", "road")):
    image = red_picture()
    regions = segmenter.segment(Picture(image), image, concepts)
    assert [len(regions[concept]) for concept in concepts] == [1, 0]  # the second is nowhere
    mask, score = concept_mask(regions["red"], segmenter.threshold, (40, 100))
    return mask, score


def test_the_oracle_would_see_what_is_misplaced():
    mask = np.zeros((40, 100), np.float32)
    mask[RED] = 1
    assert overlap(mask) == 1
    assert max(overlap(mask[::-1]), overlap(mask[:, ::-1]), overlap(np.roll(mask, 5, axis=1))) < 0.8


def test_clipseg_maps_its_square_back_to_the_picture(segmenter_sample):
    found = load(segmenter_sample("clipseg"))

    def answer(input_ids, pixel_values, **others):
        return {"logits": redness(pixel_values)[0] if is_red(found.network, input_ids[0]) else -9 * torch.ones(32, 32)}

    mask, score = found_red(type(found)(planted(found.network, answer), 0.5))
    assert overlap(mask) > 0.85 and score > 0.9


def test_sam3_multiplies_presence_score_and_mask(segmenter_sample):
    found = load(segmenter_sample("sam3"))

    def answer(vision_embeds, input_ids, **others):
        presence = 9.0 if is_red(found.network, input_ids[0]) else -9.0
        masks = F.avg_pool2d(redness(vision_embeds), 2)
        return {
            "pred_logits": torch.tensor([[-9.0, 0.4, -9.0]]),
            "presence_logits": torch.tensor([[presence]]),
            "pred_masks": torch.stack([-masks, masks, -masks], dim=1),
        }

    network = planted(found.network, answer)
    network.module.get_vision_features = lambda pixels: pixels
    mask, score = found_red(type(found)(network))
    assert overlap(mask) > 0.7 and score == pytest.approx(torch.tensor(0.4).sigmoid().item(), abs=1e-3)


@pytest.mark.parametrize("kind", ["mask2former", "oneformer"])
def test_universal_networks_are_mapped_back_without_their_padding(kind, segmenter_sample):
    found = load(segmenter_sample(kind))
    assert found.vocabulary == ("road", "sky, heaven", "Wheels", "red")

    def answer(pixel_values, **others):
        if kind == "mask2former":
            assert pixel_values.shape[-2:] == (160, 192) and not others["pixel_mask"].all()
        maps = F.avg_pool2d(redness(pixel_values), 4)
        classes = torch.full((1, 4, 5), -9.0)
        classes[0, 0, 3] = classes[0, 1, 3] = classes[0, 2, 4] = classes[0, 3, 4] = 9  # red twice, nothing twice
        halves = torch.stack([maps, maps, -maps, -maps], dim=1)
        return {"class_queries_logits": classes, "masks_queries_logits": halves}

    mask, score = found_red(type(found)(planted(found.network, answer)))
    assert overlap(mask) > 0.8 and 0.8 <= score <= 1


def test_boxes_and_masks_are_in_the_pictures_own_pixels(segmenter_sample):
    found = load(segmenter_sample("grounded-sam"))

    def detect(input_ids, pixel_values, **others):
        rows, columns = torch.nonzero(redness(pixel_values)[0] > 0).T
        box = torch.stack([columns.amin(), rows.amin(), columns.amax() + 1, rows.amax() + 1]).float()
        box /= torch.tensor([*pixel_values.shape[:1:-1]] * 2)
        middle = torch.cat([(box[:2] + box[2:]) / 2, box[2:] - box[:2]])
        logits = torch.full((1, 3, 64), -torch.inf)
        logits[:, :, : input_ids.shape[1]] = -9
        if is_red(found.detector, input_ids[0]):
            logits[0, 1, 1] = 0.2
        return {"logits": logits, "pred_boxes": torch.stack([torch.rand(4), middle, torch.rand(4)])[None]}

    def mask_in(pixel_values, input_boxes, **others):
        assert input_boxes.shape == (1, 1, 4) and pixel_values.shape[-2:] == (64, 64)
        left, top, right, bottom = (input_boxes[0, 0] / 4).round().int()  # in a map of 16 by 16
        masks = torch.full((1, 1, 1, 16, 16), -9.0)
        masks[..., top:bottom, left:right] = 9
        return {"pred_masks": masks}

    mask, score = found_red(GroundedSAM(planted(found.detector, detect), planted(found.masker, mask_in)))
    assert overlap(mask) > 0.7 and score == pytest.approx(torch.tensor(0.2).sigmoid().item(), abs=1e-4)


def test_semantic_networks_of_torchvision_are_mapped_back(segmenter_sample):
    found = load(segmenter_sample("torchvision"))
    categories = ("__background__", "road", "red")

    class Net(nn.Linear):
        def forward(self, pixels):
            assert pixels.shape[-2] == 520
            logits = F.avg_pool2d(redness(pixels), 8)
            return {"out": torch.stack([-logits, torch.full_like(logits, -99), logits], dim=1)}

    mask, score = found_red(SemanticSegmenter("deeplab", Net(1, 1), categories, transform=found.transform))
    assert overlap(mask) > 0.9 and 0.8 <= score <= 1


def instances(scores):
    """A Mask R-CNN that is sure of the red rectangle by one of some scores."""
    categories = ("__background__", "road", "N/A", "red")

    class Net(nn.Linear):
        def forward(self, pictures):
            assert pictures[0].shape == (3, 40, 100) and pictures[0].max() <= 1
            masks = torch.zeros(len(scores), 1, 40, 100)
            masks[:, :, *RED] = 1
            return [{"labels": torch.tensor([3] * len(scores)), "scores": torch.tensor(scores), "masks": masks}]

    return InstanceSegmenter("maskrcnn", Net(1, 1), categories)


def test_instances_count_by_score_times_mask():
    mask, score = found_red(instances([0.9, 0.79, 0.1]))  # the others stay below 0.8
    assert overlap(mask) == 1 and score == pytest.approx(0.9)
    image = red_picture()
    assert instances([0.79]).segment(Picture(image), image, ["red"]) == {"red": []}
    assert instances([0.79]).vocabulary == ("road", "red")
    with pytest.raises(SettingError, match="N/A"):
        instances([0.79]).segment(Picture(image), image, ["N/A"])


def test_a_small_mask_rcnn_runs():
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.rpn import AnchorGenerator
    from torchvision.ops import MultiScaleRoIAlign

    backbone = nn.Sequential(nn.Conv2d(3, 8, 16, stride=16))
    backbone.out_channels = 8
    module = MaskRCNN(
        backbone,
        num_classes=3,
        min_size=64,
        max_size=128,
        box_score_thresh=0,
        box_detections_per_img=5,
        rpn_anchor_generator=AnchorGenerator(((32,),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
        mask_roi_pool=MultiScaleRoIAlign(["0"], 14, 2),
    ).eval()
    found = InstanceSegmenter("maskrcnn", module, ("__background__", "road", "red"), FAINT)
    image = red_picture()
    regions = found.segment(Picture(image), image, ["road", "red"])
    assert sum(map(len, regions.values()))
    for region in (*regions["road"], *regions["red"]):
        assert region.probability.shape == (40, 100) and region.probability.max() <= region.score + 1e-6


# Files


@pytest.fixture
def painted(tmp_path):
    """Images of one name in two class folders, and masks of them."""
    for name in ("van", "cart"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.new("RGB", (30, 20)).save(tmp_path / "pictures" / name / "1.photo.jpg")
    (tmp_path / "masks" / "wet road" / "van").mkdir(parents=True)
    (tmp_path / "masks" / "sign").mkdir(parents=True)
    return tmp_path


def paint(path, size=(30, 20), box=(3, 4, 10, 12)):
    mask = Image.new("L", size)
    mask.paste(255, box)
    mask.save(path)
    return np.asarray(mask, np.float32) / 255


def ask(masks, path, *concepts):
    return masks.segment(Picture(path), read_image(path), concepts)


def test_masks_are_read_as_they_were_painted(painted):
    of_van = paint(painted / "masks" / "wet road" / "van" / "1.photo.png")
    of_any = paint(painted / "masks" / "wet road" / "1.photo.png", box=(0, 0, 2, 2))
    masks = load_segmenter(f"files/{painted / 'masks'}")
    assert masks.vocabulary == ("sign", "wet road") and masks.threshold == 0.5
    for name, expected in {"van": of_van, "cart": of_any}.items():  # the longest path that there is
        found = ask(masks, painted / "pictures" / name / "1.photo.jpg", "Wet_Road", "sign")
        (region,) = found["Wet_Road"]
        assert np.array_equal(region.probability, expected) and region.score == 1 and found["sign"] == []
        assert np.array_equal(concept_mask([region], 0.5, (20, 30))[0], expected)
    before = masks.describe()
    paint(painted / "masks" / "wet road" / "1.photo.png", box=(0, 0, 2, 3))
    assert masks.describe() != before


def test_masks_that_do_not_fit_are_refused(painted):
    picture = painted / "pictures" / "van" / "1.photo.jpg"
    masks = MaskFiles(painted / "masks")
    paint(painted / "masks" / "sign" / "1.photo.png", size=(20, 30))
    with pytest.raises(ImageError, match=r"1.photo.png to have the image's size 30x20 but got 20x30; it looks turned"):
        ask(masks, picture, "sign")
    (painted / "masks" / "sign" / "1.photo.png").write_text("no image")
    with pytest.raises(ImageError, match="no image"):
        ask(masks, picture, "sign")
    with pytest.raises(ImageError, match="in memory"):
        masks.segment(Picture(red_picture()), red_picture(), ["sign"])
    with pytest.raises(SettingError, match="nearest are wet road"):
        ask(masks, picture, "road")
    with pytest.raises(FolderError, match="a folder for each concept"):
        load_segmenter(f"files/{painted / 'pictures' / 'van'}")


@pytest.mark.parametrize("flat", [True, False])
def test_a_mask_that_could_be_of_two_pictures_is_refused(flat, painted):
    Image.new("RGB", (30, 20), "red").save(painted / "pictures" / "cart" / "1.photo.jpg")
    for name in ("van", "cart"):
        folder = painted / "masks" / "sign" / ("" if flat else name)
        folder.mkdir(exist_ok=True)
        paint(folder / "1.photo.png")
    masks = MaskFiles(painted / "masks")
    for _ in range(2):  # an image may be asked for again
        assert len(ask(masks, painted / "pictures" / "van" / "1.photo.jpg", "sign")["sign"]) == 1
    if flat:
        with pytest.raises(ImageError, match=r"one image for the mask .*1.photo.png but got two, .*van.* and .*cart"):
            ask(masks, painted / "pictures" / "cart" / "1.photo.jpg", "sign")
    else:
        assert len(ask(masks, painted / "pictures" / "cart" / "1.photo.jpg", "sign")["sign"]) == 1


# The playground


def test_the_playgrounds_masks_are_the_renderers_also_from_files(tmp_path):
    scenes = [
        render("van", seed=1, ground="snow", ground_seed=900, sign="ring"),
        render("cart", seed=2, wheels="chrome", sign=None),
        render("taxi", seed=3),
        render("sleigh", seed=4),
    ]
    images = image_set(scenes, "four")
    images.write(tmp_path, load_model("playground").classes)
    files = {path.name: path for path in tmp_path.rglob("*.png")}
    found = load_segmenter("playground")
    for number, (scene, picture) in enumerate(zip(scenes, images.pictures, strict=True)):
        path = files[f"{number:05}.png"]
        for source, image in ((picture.source, picture.source), (path, read_image(path))):
            regions = found.segment(Picture(source), image, CONCEPTS)
            for concept in CONCEPTS:
                shares = [region.probability for region in regions[concept]]
                if scene.masks[concept].max() >= 0.5:
                    assert len(shares) == 1 and np.array_equal(shares[0], scene.masks[concept])
                else:
                    assert not shares


def test_a_style_is_the_concept_where_it_has_that_style():
    found = load_segmenter("playground")
    image = picture_of(render("van", seed=1, ground="snow", wheels="red"))
    regions = found.segment(Picture(image), image, ["snow", "road", "red", "rubber", "ground"])
    assert [len(each) for each in regions.values()] == [1, 0, 1, 0, 1]
    assert np.array_equal(regions["snow"][0].probability, regions["ground"][0].probability)
    assert default_style("van", "ground") == "road"


def test_pictures_that_are_not_the_playgrounds_or_were_changed_are_refused():
    found = load_segmenter("playground")
    image = picture_of(render("van", seed=1))
    changed = image.copy()
    changed.putpixel((3, 4), (1, 2, 3))
    foreign = red_picture()
    damaged = image.copy()
    damaged.info["rulepatch:scene"] = '{"label": "spaceship"}'
    for wrong, message in [
        (changed, "pixels differ"),
        (image.resize((32, 32)), "pixels differ"),
        (foreign, "carries none"),
        (damaged, "expected seed in the scene"),
    ]:
        with pytest.raises(ImageError, match=message):
            found.segment(Picture(wrong), wrong, ["ground"])


# Context


@pytest.fixture(scope="module")
def playground():
    return load_model("playground")


def agreement(model, key, scenes, threshold=0.8):
    """Mean overlap of where a key fires and where the ground is; 0 where it fires nowhere."""
    found = ContextMatch(model, key, training_images(150, seed=5), threshold=threshold, cache=None, progress=False)
    exact, overlaps = load_segmenter("playground"), []
    for picture in scenes.pictures:
        (fires, _), (ground, _) = (
            concept_mask(one.segment(picture, picture.source, [name])[name], one.threshold, (64, 64))
            for one, name in ((found, "road"), (exact, "ground"))
        )
        union = np.maximum(0 if fires is None else fires, ground)
        overlaps.append(0 if fires is None else float((fires * ground).sum() / union.sum()))
    return float(np.mean(overlaps))


@pytest.mark.slow
def test_a_key_of_the_road_fires_on_roads_and_nowhere_else(playground):
    exemplars = [exemplar("van", ground="snow", seed=seed, ground_seed=1000) for seed in range(1, 6)]
    reference = training_images(150, seed=3)
    key = key_of_concept(playground, exemplars, site="blocks.3.conv", reference=reference, cache=None, progress=False)
    assert key.name == "road"
    roads = image_set([render("car", seed=seed) for seed in range(20)], "roads")
    sands = image_set([render("car", seed=seed, ground="sand") for seed in range(20)], "sands")
    opposite = Key(key.site, -key.direction, "road")
    on_roads = agreement(playground, key, roads)
    assert on_roads > 0.55
    assert agreement(playground, key, sands) < on_roads / 2
    assert agreement(playground, opposite, roads) < on_roads / 2


def test_context_is_mapped_from_the_crop_back_to_the_picture():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    model = Classifier(net, Preprocess((32, 32), resize=36, mean=(0, 0, 0), std=(1, 1, 1)), ["a", "b"])
    rng = np.random.default_rng(0)
    pictures = (Image.fromarray(rng.integers(0, 200, (32, 32, 3), dtype=np.uint8)) for _ in range(3))
    noise = ImageSet(tuple(map(Picture, pictures)), "noise")
    found = ContextMatch(model, Key("0", torch.tensor([1.0, -1.0, 0.0]), "red"), noise, cache=None, progress=False)
    pixels = np.full((40, 100, 3), 80, np.uint8)
    pixels[10:30, 50:60] = pixels[:, :20] = (255, 0, 0)  # what lies to the left is not seen
    image = Image.fromarray(pixels)
    (region,) = found.segment(Picture(image), image, ["red"])["red"]
    mask, score = concept_mask([region], found.threshold, (40, 100))
    assert overlap(mask, (slice(10, 30), slice(50, 60))) > 0.8 and score >= 0.99
    left, top, right, bottom = model.preprocess.window(image.size)
    assert not region.probability[:, : int(left)].any() and not region.probability[: int(top)].any()
    assert not region.probability[:, int(right) + 1 :].any() and not region.probability[int(bottom) + 1 :].any()
    assert (region.probability[4:36, 34:66] > 0).all()


def test_a_saved_edits_key_is_what_it_replaces_things_by(playground, segmenter_sample):
    sample = segmenter_sample("context")
    found = load(sample)
    assert found.vocabulary == ("snow",) and found.threshold == 0.99
    assert Edit.load(Path(sample.name.partition("/")[2])).sites == ("blocks.3.conv",)


# Pieces


def test_masks_of_regions_are_joined():
    one = Region(np.array([[0.9, 0.2, 0.0]], np.float32), 0.6)
    two = Region(np.array([[0.0, 0.8, 0.0]], np.float32), 0.8)
    faint = Region(np.array([[0.1, 0.1, 0.3]], np.float32), 1.0)
    mask, score = concept_mask([one, two, faint], 0.5, (1, 3))
    assert mask.tolist() == [[1, 1, 0]] and mask.dtype == np.float32 and score == 0.8
    assert concept_mask([one], 0.9, (1, 3))[0] is not None or np.float32(0.9) < 0.9  # at the threshold it counts
    assert concept_mask([], 0.5, (1, 3)) == (None, 0.0) == concept_mask([faint], 0.5, (1, 3))
    with pytest.raises(ImageError, match=r"3 by 1, but got one of 1 by 3"):
        concept_mask([one], 0.5, (3, 1))


def test_whole_names_come_before_synonyms():
    assert entries_of(["CAR", "bus"], ["bus, car", "car", "coach; bus"]) == {"CAR": (1,), "bus": (0, 2)}

"""The inverse direction on a real network: the pseudo-inverse turns keys, the transpose does damage."""

import pytest

from rulepatch.data.exemplar_folders import read_exemplars
from rulepatch.data.folders import ImageSet
from rulepatch.editors.edit import front
from rulepatch.inverse.reconstruct import invert
from rulepatch.models.registry import load_model

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:the (edit|exemplars|model is wrong)"),
]

SITE = "features.12.expand3x3"
EDITORS = [front(f"inverse-{form}") for form in ("pinv", "transpose", "fourier")]


@pytest.fixture(scope="module")
def posed(data):
    model = load_model(str(data / "models" / "squeezenet1_0.toml"))
    reference = ImageSet.of(data / "imagenet_sample" / "val", model.classes).sample(60, seed=0)
    return model, read_exemplars([data / "wheels" / "exemplar_0"]), reference


def test_the_pseudo_inverse_turns_the_keys_and_the_transpose_does_so_at_any_price(posed):
    model, exemplars, reference = posed
    common = {"reference": reference, "site": SITE, "cache": None, "progress": False}
    ends, damage = {}, {}
    for editor in EDITORS:
        edit = editor(model, exemplars, **common)
        found = invert(model, exemplars, site=SITE, edit=edit, levels=["key"], progress=False)
        damage[editor.__name__] = edit.provenance["sites"][0]["predicted_damage"]
        ends[editor.__name__] = [each.to_edited[-1] for each in found.reconstructions]
        assert edit.provenance["inverse"][0]["recalled"]["after"] < edit.provenance["inverse"][0]["recalled"]["before"]
    before, after = ends["inverse_pinv"]
    assert after > before + 0.1
    assert ends["inverse_fourier"][1] < after - 0.1
    assert damage["inverse_transpose"] > 10 * damage["inverse_pinv"]
    assert edit.provenance["inverse"][0]["recalled"]["after"] < 0.05
    assert edit.provenance["inverse"][0]["within_taps"] < 0.5

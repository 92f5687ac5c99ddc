"""The inverse direction at layers whose positions are tokens."""

import pytest
import timm
import torch

from rulepatch.editors.edit import front
from rulepatch.models.classifier import Classifier
from rulepatch.models.preprocess import Preprocess
from rulepatch.tracing.sites import find_sites

inverse_fourier, inverse_pinv, inverse_transpose = map(front, ("inverse-fourier", "inverse-pinv", "inverse-transpose"))


@pytest.mark.slow
def test_tokens_are_positions_each_by_itself(exemplars, reference, untouched):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = timm.create_model("test_vit", num_classes=5, img_size=64).eval().requires_grad_(False)
    model = Classifier(net, Preprocess((64, 64)), ["ant", "bee", "cat", "dog", "eel"], "a small transformer")
    site = [each.path for each in find_sites(net, model.example()).sites if each.is_spatial and each.kind == "linear"][
        -1
    ]
    untouched(net)
    images = model.inputs(torch.rand(2, 3, 64, 64))
    before = model.logits(images)
    for editor, settings in (
        (inverse_transpose, {}), (inverse_pinv, {"architecture": 3}), (inverse_pinv, {}), (inverse_fourier, {})
    ):  # fmt: skip
        edit = editor(model, exemplars, reference=reference, site=site, cache=None, progress=False, **settings)
        after = edit.apply(model).logits(images)
        assert after.isfinite().all() and not torch.equal(after, before), editor
        (told,) = edit.provenance["inverse"]
        assert told["recalled"]["after"] < told["recalled"]["before"]

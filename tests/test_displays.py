"""What a person sees of every public result at a prompt and in a notebook, whatever names it holds."""

import base64
import copy
import io
import math
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import rulepatch
from rulepatch.core.changes import Dense, Gate, LowRank, NewClass
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet, Picture, Snapshot
from rulepatch.evaluation.outcomes import Outcomes, Predictions
from rulepatch.evaluation.report import render_frame
from rulepatch.evaluation.result import Evaluation
from rulepatch.experiments.compare import Comparison, Result
from rulepatch.models.classes import Classes
from rulepatch.models.classifier import Classifier
from rulepatch.models.preprocess import Preprocess
from rulepatch.notebook import STYLE, details, line, panel, table
from rulepatch.records.exemplar_predictions import ExemplarPredictions
from rulepatch.settings import Settings
from rulepatch.site_search.candidates import Candidate, Trial
from rulepatch.site_search.result import Search
from rulepatch.thumbnails import marked
from rulepatch.tracing.sites import Site, SiteList, SkippedLayer, find_sites

SHORT = "van"
HOSTILE = "<script>alert('x')</script>\"><img src=http://evil.example/x onerror=alert(1)>&amp;{{ 7 * 7 }}$x^{"
UNPRINTABLE = "one\ntwo\r\x00\x1b[31m\udcff\u2028three"
LONG = "photographs of vehicles on snow/" * 20
NAMES = {
    "short": SHORT,
    "hostile": HOSTILE,
    "unprintable": UNPRINTABLE,
    "long": LONG,
    "foreign": "雪の上の車 🚗",
    "": " ",
}

rng = np.random.default_rng(0)


def picture(size=(256, 192)):
    """A photograph of no detail, which JPEG keeps."""
    across, down = np.meshgrid(np.linspace(0, 200, size[0]), np.linspace(40, 220, size[1]))
    return Image.fromarray(np.stack([across, down, across / 2 + 50], axis=2).astype(np.uint8))


def exemplar(name):
    image, mask = picture(), np.zeros((192, 256), np.float32)
    mask[96:] = 1
    edited = Exemplar.painted(image, mask, Image.new("RGB", (8, 8), "white")).edited
    return Exemplar(image, edited, mask, label=name, concept=name, replacement=name, name=name)


def classifier(name):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return Classifier(net, Preprocess((32, 24)), [f"{name} {number}" for number in range(3)], name)


PROVENANCE = {
    "method": "rewrite", "model": "a model", "settings": {"strength": 1.0},
    "sites": [{"site": "a.0", "loss": {"before": 0.5, "after": 0.25}, "predicted_damage": 0.012}],
    "exemplars": [{"name": "one", "label": 3, "concept": "road", "replacement": "snow"}],
}  # fmt: skip


def low_rank(site, gate=None):
    return LowRank(site, f"{site}.act", torch.ones(2, 5), torch.ones(4, 2, 3, 3), 1.5, gate)


def named(name, found):
    """A provenance in which every text is a name."""
    if isinstance(found, dict):
        return {key: named(name, value) for key, value in found.items()}
    if isinstance(found, list):
        return [named(name, value) for value in found]
    return name if isinstance(found, str) else found


def edit(name, kind="low-rank"):
    changes = {
        "low-rank": [low_rank(name)],
        "gated": [low_rank(name, Gate("hard", 0.98, torch.ones(1), torch.ones(5)))],
        "dense": [Dense(f"{name}.weight", torch.ones(3, 3))],
        "class": [NewClass(f"{name} name", name, "head", torch.ones(1, 5, 1, 1), torch.zeros(1))],
        "many": [low_rank(f"{name}.{number}") for number in range(9)],
        "nothing": [],
    }[kind]
    return Edit(tuple(changes), "0123456789abcdef" * 4, named(name, PROVENANCE))


def site_list(name):
    site = Site(name, name, "conv", (4, 3, 3, 3), (1, 1), True, 1, (8, 8), 0)
    return SiteList((site,), (SkippedLayer(name, f"{name} depthwise"),), trace=None)


def outcomes(name, labels=(0, 1, None)):
    def said():
        return Predictions(
            rng.integers(0, 3, len(labels)),
            *rng.random((2, len(labels))).astype(np.float32),
            np.zeros((len(labels), 0)),
        )

    return Outcomes(name, tuple(Picture(picture((40, 30)), label) for label in labels), said(), said())


def evaluation(name, labels=(0, 1, None)):
    return Evaluation(edit(name), name, Classes((name,) * 3), outcomes(name, (0, 1, 2)), outcomes(name, labels))


def candidate(name):
    return Candidate(Trial((name,)), "vary", 0.1, 0.5, np.array([0.2, 0.4]), 2, 0, 0.0, 0.005, measured=100)


def search(name, *, chosen=True):
    found = [candidate(name) for _ in range(3)]
    return Search(
        edit(name) if chosen else None, found[1] if chosen else None, tuple(found if chosen else ()), f"why: {name}",
        f"measured on {name}", 0.0025, 100, name, lambda trial: edit(name),
    )  # fmt: skip


def comparison(name):
    tests = evaluation(name, (0, 1, 2))
    sizes = {"validation": 2, "tests": 3, "reference": 4}
    return Comparison((Result("rewrite", {"rank": 1, "form": name}, tests, 0.1, 0.2, (5, 3)),), name, 0.0025, sizes, 0)


def in_memory(name, labels):
    return ImageSet(tuple(Picture(picture((8, 8)), label) for label in labels), name)


MADE = {
    "Classifier": (classifier, "32×24 pixels, 3 classes, 127 parameters, cpu"),
    "Classes": (lambda name: Classes((name, *"abcdefg")), "8 names: "),
    "Classes of ImageNet": (lambda name: Classes((name,) * 1000), "1,000 names: "),
    "Preprocess": (lambda name: Preprocess((224, 200), 256, "bicubic"), "RGB 224×200, resize 256, bicubic, mean "),
    "Preprocess of grey": (lambda name: Preprocess(28, mean=[0.1307], std=[0.3081]), "(L 28×28, bilinear, "),
    "Exemplar": (exemplar, "256×192"),
    "ExemplarPredictions": (lambda name: exemplar(name).predictions(classifier(name)), " %"),
    "ImageSet": (lambda name: in_memory(name, (0, 1, 1)), "3 images, labelled, 2 classes, "),
    "ImageSet without labels": (lambda name: in_memory(name, (None, None)), "2 images, without labels, "),
    "ImageSet partly labelled": (lambda name: in_memory(name, (None, 2)), "2 images, partly labelled, "),
    "ImageSet of nothing": (lambda name: in_memory(name, ()), "0 images"),
    "Snapshot": (lambda name: Snapshot((Picture(picture(), 0),), name, ("0" * 64,)), "1 image, labelled, 1 class, "),
    "Edit": (edit, "rank 2, strength 1.5, gate none, base 01234567"),
    "Edit, gated": (lambda name: edit(name, "gated"), "gate hard 0.98"),
    "Edit, dense": (lambda name: edit(name, "dense"), "rank full, strength 1"),
    "Edit of a class": (lambda name: edit(name, "class"), "new class "),
    "Edit of many sites": (lambda name: edit(name, "many"), "7 more"),
    "Edit of nothing": (lambda name: edit(name, "nothing"), "no change, base 01234567"),
    "Edit, composed": (lambda name: Edit.compose(edit(name), edit(name, "dense")), "rank 2 + full"),
    "SiteList": (site_list, "1 site, 1 layer not editable"),
    "SiteList of a network": (lambda name: find_sites(classifier(name).module, torch.zeros(1, 3, 32, 24)), "2 sites"),
    "Search": (search, "3 tried"),
    "Search that found nothing": (lambda name: search(name, chosen=False), "nothing chosen, 0 tried"),
    "Comparison": (comparison, "1 method, best rewrite, "),
    "Evaluation": (evaluation, "right of 3"),
    "Outcomes": (outcomes, " of 3"),
    "LowRank": (low_rank, "strength=1.5"),
    "Dense": (lambda name: Dense("a.weight", torch.ones(9, 9)), "a.weight"),
    "NewClass": (lambda name: edit("a", "class").changes[0], "head='head'"),
    "Candidate": (lambda name: candidate("conv"), "repaired=2"),
    "Predictions": (lambda name: outcomes(name).first, "Predictions()"),
}  # fmt: skip
"""Every kind of result, made with some name wherever a name may stand, and what its line must tell of a short one."""

OF_FIXED_NAME = {"LowRank", "Dense", "NewClass", "Candidate", "Predictions"}
"""Parts of results: their lines are those of dataclasses, without tensors."""

DRAWN = [title for title, (make, _) in MADE.items() if hasattr(make(SHORT), "_repr_html_")]


def test_every_public_type_is_looked_at():
    types = {name for name in rulepatch.__all__ if isinstance(getattr(rulepatch, name), type)}
    settings = {name for name in types if issubclass(getattr(rulepatch, name), Settings)}
    assert types - settings - {"RulepatchError", "Rule"} <= MADE.keys()
    assert settings >= {"Rewrite", "Run"} and repr(rulepatch.Rewrite(rank=3)) == "Rewrite(rank=3)"
    assert {type(make(SHORT)).__name__ for make, _ in MADE.values()} >= {
        "SiteList",
        "Search",
        "Comparison",
        "ExemplarPredictions",
    }


@pytest.mark.parametrize("title", MADE)
def test_a_line_tells_what_matters(title):
    make, told = MADE[title]
    found = repr(make(SHORT))
    assert told in found and found.startswith(f"{type(make(SHORT)).__name__}(") and found.endswith(")")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("title", [title for title in MADE if title not in OF_FIXED_NAME])
def test_it_is_one_printable_line_of_at_most_120_characters(title, name):
    found = repr(MADE[title][0](NAMES[name]))
    assert len(found) <= 120 and found.isprintable() and "tensor" not in found


@pytest.mark.parametrize("title", sorted(OF_FIXED_NAME))
def test_parts_print_no_arrays(title):
    found = repr(MADE[title][0](SHORT))
    assert "tensor" not in found and "array" not in found and len(found.splitlines()) == 1


class Page(HTMLParser):
    """The tags, attributes and text of a piece of HTML, whose tags must be balanced."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text, self._open = [], [], "", []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        self._open += [] if tag == "img" else [tag]

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def pictures(self):
        """Those of photographs, decoded; drawings are parsed."""
        found = []
        for address in (value for name, value in self.attributes if name == "src"):
            kind, content = re.fullmatch(r"data:image/(jpeg|svg\+xml);base64,(.+)", address).groups()
            if kind == "jpeg":
                found.append(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))
            else:
                assert ElementTree.fromstring(base64.b64decode(content)).tag.endswith("svg")
        return found


def checked(page):
    """A piece of HTML that may stand in anybody's notebook."""
    found = Page(page)
    assert {"div", "style", "p", "b", "table", "thead", "tbody", "tr", "th", "td", "img", "figure", "figcaption",
            "details", "summary"} >= set(found.tags)  # fmt: skip
    assert {"class", "src", "alt"} >= {name for name, _ in found.attributes}
    found.pictures()
    return found


@pytest.mark.parametrize(
    "bad", ["<p><b></p></b>", "<p>", "<script></script>", "<p onclick='x'></p>", "<img src='http://x.example/'>"]
)
def test_what_may_not_stand_there_would_be_found(bad):
    with pytest.raises((AssertionError, AttributeError)):
        checked(panel("title") + bad)


def test_every_type_that_has_pictures_or_tables_shows_them():
    shown = {type(MADE[title][0](SHORT)).__name__ for title in DRAWN}
    assert shown == {"Exemplar", "ExemplarPredictions", "Edit", "SiteList", "Search", "Comparison", "Evaluation"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("title", DRAWN)
@pytest.mark.filterwarnings("ignore:Glyph")  # the drawings' font has no Chinese
def test_a_notebook_gets_sound_html_in_which_all_text_is_escaped(title, name):
    page = MADE[title][0](NAMES[name])._repr_html_()
    page.encode()
    assert type(page) is str and page.startswith('<div class="rulepatch">')
    text = checked(page).text
    if title not in {"SiteList of a network", "Edit of nothing"}:
        assert re.sub("[\r\x00\x1b\udcff]", "\ufffd", NAMES[name]) in text


@pytest.mark.parametrize("name", NAMES)
def test_an_evaluation_stands_in_a_frame_of_its_own(name):
    found = Page(render_frame(evaluation(NAMES[name])))
    assert found.tags == ["iframe"]


def test_an_exemplar_shows_the_picture_the_mask_and_the_edited_picture():
    one = exemplar(SHORT)
    original, overlay, edited = (np.asarray(each, float) for each in checked(one._repr_html_()).pictures())
    assert np.abs(original - np.asarray(one.image)).mean() < 3 and np.abs(edited - np.asarray(one.edited)).mean() < 3
    assert np.abs(overlay - original)[:88].mean() < 3 and np.abs(overlay - original)[104:].mean() > 30


def test_a_mask_is_laid_over_as_far_as_it_reaches():
    one = exemplar(SHORT)
    exact = np.asarray(marked(one.image, one.mask), float)
    assert (exact[:96] == np.asarray(one.image)[:96]).all() and (exact[96:] != np.asarray(one.image)[96:]).any(2).all()
    assert np.asarray(marked(one.image.convert("L"), one.mask)).shape == (192, 256, 3)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "1", "P", "CMYK"])
def test_pictures_of_every_mode_are_shown(mode):
    one = exemplar(SHORT)
    other = Exemplar(one.image.convert(mode), one.edited.convert(mode), one.mask)
    assert len(checked(other._repr_html_()).pictures()) == 3


def test_opinions_are_the_models_own():
    model, one = classifier(SHORT), exemplar(SHORT)
    found = one.predictions(model)
    assert isinstance(found, ExemplarPredictions)
    for picture, opinion in [(one.image, found.original), (one.edited, found.edited)]:
        with torch.no_grad():
            logits = model.module(model.inputs(model.preprocess.pixels(picture)[None]))[0].double().tolist()
        shares = [math.exp(each) / sum(map(math.exp, logits)) for each in logits]
        naive = sorted(zip(model.classes.names, shares, strict=True), key=lambda pair: -pair[1])
        assert [guess.name for guess in opinion.top] == [name for name, _ in naive]
        assert [guess.probability for guess in opinion.top] == pytest.approx([share for _, share in naive], rel=1e-4)
        assert f"{naive[0][0]} {100 * naive[0][1]:.1f} %" in checked(found._repr_html_()).text
    assert "predictions of" not in one._repr_html_()


def rows(page):
    return [
        [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<td.*?</td>", row)]
        for row in re.findall(r"<tr.*?</tr>", page)
    ][1:]


def test_an_edit_tells_what_was_measured_of_each_site():
    one = Edit((low_rank("a.0"),), "0" * 64, PROVENANCE)
    assert rows(one._repr_html_())[0] == ["a.0", "a.0.act", "4×5×3×3", "2", "1.5", "none", "0.5 → 0.25", "1.2 %"]
    assert "measured at strength 1." in one._repr_html_() and "measured at" not in one.with_strength(1)._repr_html_()
    other = replace(one, provenance={**PROVENANCE, "sites": [{"site": "b.0", "loss": {"before": 1.0, "after": 0.0}}]})
    assert rows(other._repr_html_())[0][-2:] == ["", ""], "what was measured elsewhere is not told of it"
    both = Edit.compose(one, replace(one, provenance=named("a.0", PROVENANCE) | {"sites": [
        {"site": "a.0", "loss": {"before": 3, "after": 2}, "predicted_damage": None}]}))  # fmt: skip
    assert [row[-2:] for row in rows(both._repr_html_())[:2]] == [["0.5 → 0.25", "1.2 %"], ["3 → 2", ""]]


def places(found, before=()):
    yield before
    for key in found if isinstance(found, dict) else range(len(found)) if isinstance(found, list) else ():
        yield from places(found[key], (*before, key))


@pytest.mark.parametrize("where", list(places({"composed": [PROVENANCE]}))[1:], ids=str)
@pytest.mark.parametrize("junk", [None, 3, "text", [], {}, [3], [[]], math.nan, True], ids=repr)
def test_an_edit_whose_file_says_nonsense_is_shown_all_the_same(where, junk):
    provenance = copy.deepcopy({"composed": [PROVENANCE]})
    inside = provenance
    for key in where[:-1]:
        inside = inside[key]
    inside[where[-1]] = junk
    one = Edit((low_rank("a.0"),), "0" * 64, provenance)
    assert len(repr(one)) <= 120 and "a.0.act" in checked(one._repr_html_()).text


def test_the_chosen_candidate_is_marked_even_if_it_is_none_of_the_best():
    found = search(SHORT)
    best = [candidate(f"site {number}") for number in range(20)]
    weak = replace(candidate("weak"), log_prob_gain=np.array([-1.0, -1.0]))
    page = replace(found, candidates=(*best, weak), chosen=weak)._repr_html_()
    assert len(rows(page)) == 13
    assert re.findall(r'<tr class="marked"><td><b>(\w+)</b>', page) == ["weak"]
    assert "marked" not in replace(found, chosen=None)._repr_html_().replace(STYLE, "")


def test_numbers_stand_to_the_right_and_nothing_else_does():
    cells = [["a", 1, "+0.5 %", None, "3×3", "-"], ["b", 2.5, "−1", 4, "", "1"]]
    page = table(list("uvwxyz"), cells)
    assert re.findall(r'<th class="number">(.)', page) == ["v", "w", "x", "y"]
    assert len(rows(page)) == 2 and rows(table(["none"], [])) == []


def test_fragments_escape_text_and_nothing_twice():
    page = panel("<1>", line("<2>"), details("<3>", line("<4> & 'five'")))
    assert Page(page).text.replace(Page(STYLE).text, "") == "<1><2><3><4> & 'five'"


def test_the_notebooks_own_colours_stay():
    """Text has the colour that is around it; only drawings, which are opaque, have a ground of their own."""
    rules = dict(re.findall(r"([^{}>]+)\{([^}]*)\}", STYLE))
    assert not [rule for rule in rules.values() if re.search(r"(?<![-\w])color:", rule)]
    grounds = {name.strip(): rule for name, rule in rules.items() if "background" in rule}
    assert [name for name, rule in grounds.items() if "#" in rule] == [".rulepatch .drawing"]
    assert all(name.strip().startswith(".rulepatch") for name in rules), "nothing else of the notebook changes"


def test_random_names_make_no_line_too_long():
    letters, dice = [chr(code) for code in [*range(0x250), 0x2028, 0xD800, 0x1F697]], random.Random(0)
    for _ in range(200):
        name = "".join(dice.choices(letters, k=dice.randrange(1, 200)))
        for title in ("Classes", "ImageSet", "Edit", "Edit of many sites", "Edit of a class", "SiteList", "Search"):
            found = repr(MADE[title][0](f"{name}."))
            assert len(found) <= 120 and found.isprintable(), (title, name)

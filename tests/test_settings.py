"""Settings: the same wherever they come from, and refused in one sentence wherever they are wrong."""

import json
import tomllib

import numpy as np
import pytest
import torch
import yaml

from rulepatch.concepts.case_settings import CaseSettings
from rulepatch.concepts.stylizers.gatys import GatysSettings
from rulepatch.concepts.stylizers.inpainting import InpaintingSettings
from rulepatch.concepts.stylizers.paste import PasteSettings
from rulepatch.data.cache import Cache
from rulepatch.data.run import Run
from rulepatch.errors import SettingError
from rulepatch.experiments.settings import CompareSettings
from rulepatch.inverse.settings import InvertSettings
from rulepatch.methods import Method, Rewrite
from rulepatch.new_classes.settings import NewClassSettings
from rulepatch.settings import range_of, written
from rulepatch.sweeps.plan import Plan
from rulepatch.text import read_pairs

ALL = {
    "strength": 2.5, "rank": 3, "gate": 0.98, "gate_kind": "soft", "architecture": 2, "match": "value",
    "error": "absolute", "steps": 7, "ridge": 0.01, "minimum": True, "coupling": "joint", "floor": 1e-7,
    "value_point": "layer4.1", "whole_image": True, "protected_share": 0.5,
}  # fmt: skip

WAYS = {
    "python": lambda how, given: how(**given),
    "pairs": lambda how, given: how.of(read_pairs(f"{name.replace('_', '-')}={_text(v)}" for name, v in given.items())),
    "yaml": lambda how, given: how.of(yaml.safe_load(yaml.safe_dump(given))),
    "toml": lambda how, given: how.of(tomllib.loads("\n".join(f"{name} = {_toml(v)}" for name, v in given.items()))),
    "json": lambda how, given: how.of(json.loads(json.dumps(given))),
}

WRONG = [
    {"rank": 0}, {"rank": 1.5}, {"rank": True}, {"rank": "two"}, {"rank": []}, {"rank": -3}, {"strength": "much"},
    {"strength": float("nan")}, {"strength": float("inf")}, {"gate": 1}, {"gate": -0.1}, {"gate": "Auto"},
    {"gate": True}, {"gate_kind": "velvet"}, {"architecture": 3}, {"match": "pre_activation"}, {"match": "bogus"},
    {"error": "l1"}, {"error": "Squared"}, {"steps": -1}, {"ridge": -1e-3}, {"coupling": "some"}, {"floor": 1},
    {"whole_image": "perhaps"}, {"minimum": "perhaps"}, {"protected_share": 0}, {"rnak": 3},
]  # fmt: skip

WRONG_OF_STYLIZERS = {
    PasteSettings: [
        {"illumination": -0.1}, {"illumination": 1.1}, {"illumination": "much"}, {"feather": 0.6}, {"feather": True},
    ],
    GatysSettings: [{"steps": 0}, {"steps": 1.5}, {"steps": "many"}, {"style_weight": 0}, {"style_wieght": 1}],
    InpaintingSettings: [
        {"template": "snow"}, {"template": 3}, {"steps": -1}, {"guidance": -1}, {"guidance": float("nan")}, {"side": 7},
    ],
}  # fmt: skip

EVERY_WRONG = [(how, each) for how, wrong in {Rewrite: WRONG, **WRONG_OF_STYLIZERS}.items() for each in wrong]


def _text(value):
    return written(value) if isinstance(value, bool | int | float | str) else str(value)


def _toml(value):
    if isinstance(value, bool | str):
        return json.dumps(value)
    return str(value) if not isinstance(value, list) else "[]"


def test_every_setting_is_tried_here():
    assert set(ALL) == set(Rewrite.model_fields)
    assert all(getattr(Rewrite(), name) != value for name, value in ALL.items())


@pytest.mark.parametrize("way", WAYS)
def test_the_same_settings_come_of_every_way(way):
    assert WAYS[way](Rewrite, ALL) == Rewrite(**ALL)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("how", "wrong"), EVERY_WRONG, ids=lambda each: getattr(each, "__name__", str(each)))
def test_what_is_wrong_is_one_sentence_whichever_way_it_comes(how, wrong, way):
    (name,) = wrong
    with pytest.raises(SettingError) as refused:
        WAYS[way](how, wrong)
    told = str(refused.value)
    assert told.startswith("expected ") and name in told and "\n" not in told and "; " in told


@pytest.mark.parametrize("wrong", [each for each in WRONG if "rnak" not in each], ids=str)
def test_a_plan_refuses_it_too(wrong):
    plan = {"models": "playground", "cases": "s", "reference": "r", "methods": {"rewrite": wrong}}
    with pytest.raises(SettingError, match=r"expected|a value or a list"):
        Plan.of(plan)


@pytest.mark.parametrize("value", [np.int64(2), np.float32(2), torch.tensor(2), 2.0, "2"], ids=repr)
def test_numbers_of_other_libraries_are_numbers(value):
    assert type(Rewrite(rank=value).rank) is int and Rewrite(rank=value, strength=value) == Rewrite(rank=2, strength=2)


def test_none_is_written_by_its_name():
    assert Rewrite(gate="none") == Rewrite(gate=None) and Rewrite(coupling="none").coupling == "none"


FURTHER = [CaseSettings, CompareSettings, InvertSettings, NewClassSettings, *WRONG_OF_STYLIZERS]


@pytest.mark.parametrize("settings", [*Method.known.values(), *FURTHER], ids=lambda each: each.__name__)
def test_what_is_described_makes_the_same_settings(settings):
    how = settings()
    assert settings.of(json.loads(json.dumps(how.describe()))) == how and how.given() == {}
    for name, field in settings.model_fields.items():
        assert field.description and field.description.endswith(".") and range_of(field), name
        if isinstance(default := field.get_default(), dict):
            continue  # by option, it is a file
        assert settings.of({name: written(default)}) == how


@pytest.mark.parametrize("settings", FURTHER)
def test_what_is_no_setting_is_refused_wherever_settings_are(settings):
    with pytest.raises(SettingError, match=f"expected {settings.title} but got 'sped'"):
        settings(sped=1)


def test_a_share_may_be_written_in_percent():
    assert CompareSettings(max_drop="1%").max_drop == NewClassSettings(max_drop="0.01").max_drop == 0.01
    for wrong in ("much", "150%", 1.5, True):
        with pytest.raises(SettingError, match="expected "):
            NewClassSettings(max_drop=wrong)


def test_classes_that_are_left_out_are_in_order_and_no_size_is_zero():
    how = CaseSettings(size="0", exclude={"road": {"van", "car"}, "grass": ["hay"]})
    assert how.size is None and how.describe()["exclude"] == {"grass": ["hay"], "road": ["car", "van"]}
    with pytest.raises(SettingError, match="smallest to be below largest"):
        CaseSettings(smallest=0.5, largest=0.4)


def test_settings_are_frozen_and_changes_are_checked():
    how = Rewrite(rank=2)
    with pytest.raises(Exception, match="frozen"):
        how.rank = 3
    assert how.but(strength=2).given() == {"strength": 2.0, "rank": 2}
    with pytest.raises(SettingError, match="rank"):
        how.but(rank=0)


@pytest.mark.parametrize(
    "wrong", [{"cache": "here"}, {"cache": []}, {"seed": -1}, {"seed": 1.5}, {"progress": 3}], ids=str
)
def test_a_run_is_checked(wrong, tmp_path):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        Run(**wrong)
    assert Run(cache=None).store is None and Run(cache=(kept := Cache(tmp_path))).store is kept


def test_the_name_that_a_setting_had_before_is_read_still():
    assert (
        NewClassSettings(loudness=2.0) == NewClassSettings.of({"logit-scale": "2"}) == NewClassSettings(logit_scale=2)
    )
    assert "loudness" not in NewClassSettings(loudness=2.0).describe()
    with pytest.raises(SettingError, match="logit_scale to be a finite number > 0 but got 0"):
        NewClassSettings(loudness=0)

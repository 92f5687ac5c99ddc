"""Numbers that no library takes, in every option and every setting that is one; and devices that are none."""

import pytest

from rulepatch.errors import SettingError
from rulepatch.experiments.settings import CompareSettings
from rulepatch.inverse.settings import InvertSettings
from rulepatch.methods import Method
from rulepatch.new_classes.settings import NewClassSettings
from rulepatch.settings import kinds_of
from tests.attack.declared import options

HUGE = ["9" * 10, "9" * 19, "9" * 20, "9" * 400, "-" + "9" * 20]
NUMBERS = [each for each in options() if each.kind in {int, float}]
SETTINGS = [*Method.known.values(), CompareSettings, InvertSettings, NewClassSettings]


@pytest.mark.parametrize("option", NUMBERS, ids=lambda each: f"{' '.join(each.command)} {each.name}")
def test_numbers_that_no_library_takes_are_refused(option, run):
    assert option.command
    for value in [*HUGE, *(["nan", "inf", "-inf", "1e308"] if option.kind is float else ["nan", "1e3", "0x10", ""])]:
        found = run(*option.line(value))
        assert (found.code, found.out) == (2, "") and found.err.count("\n") == 1, found
        assert option.name in found.err, found.err


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda each: each.__name__)
def test_settings_that_no_library_takes_are_refused(settings):
    whole = [name for name, field in settings.model_fields.items() if int in kinds_of(field)]
    for name in whole:
        for value in (*HUGE, 10**10, -(10**20)):
            with pytest.raises(SettingError, match=rf"^expected {name} to be .* but got"):
                settings(**{name: value})


@pytest.mark.parametrize("device", ["meta", "nosuch", "cuda:99", "cuda:" + "9" * 30, "cpu:x", " ", "vulkan", "xla:0"])
def test_devices_that_compute_nothing_are_refused(device, run, tmp_path):
    found = run("predict", "playground", tmp_path, "--device", device)
    assert (found.code, found.out) == (2, "") and found.err.count("\n") == 1
    assert "expected a device that is here" in found.err

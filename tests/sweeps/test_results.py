"""Choosing among a sweep's settings and summing up: known answers, a naive twin, and what must not matter."""

import copy
import random
from dataclasses import replace

import numpy as np
import pytest

from rulepatch.concepts.cases import CELLS
from rulepatch.errors import SettingError
from rulepatch.sweeps.results import (
    Case,
    average_by_case,
    chosen_results,
    compare_methods,
    compare_values,
    corrected,
    names_of,
    net,
    points_lost,
    study_of,
    summarise,
)
from rulepatch.sweeps.store import Record

TARGET, OTHER = CELLS[0], CELLS[3]


def test_the_setting_that_gained_most_is_chosen_whatever_it_did_to_the_tests(sweep_record):
    records = [
        sweep_record(settings={"rank": 1}, gained=9, corrected=1, lost=3),
        sweep_record(settings={"rank": 3}, gained=8, corrected=9, lost=-3),
    ]
    (found,) = chosen_results(records)
    assert found.settings == {"rank": 1} and found.key == records[0].key and found.strength == 1
    assert found.of(OTHER).share == 0.1 and points_lost(found) == 3 / 400 and found.tried == 2


def test_of_several_that_gained_as_much_the_one_that_flipped_least_is_chosen_then_the_first_by_key(sweep_record):
    records = [sweep_record(settings={"rank": rank}, flips=flips) for rank, flips in ((1, 7), (3, 4), (5, 4))]
    (found,) = chosen_results(records)
    assert found.key == min(each.key for each in records[1:])


def test_flips_count_as_a_share_of_the_pictures(sweep_record):
    """5 of 100 are more than 6 of 400."""
    few, many = sweep_record(settings={"rank": 1}, flips=5), sweep_record(settings={"rank": 3}, flips=6)
    few.result["chosen"]["reference"]["n"] = 100
    assert chosen_results([few, many])[0].settings == {"rank": 3}


def test_without_a_setting_within_the_budget_there_is_no_edit(sweep_record):
    records = [sweep_record(settings={"rank": rank}, gained=0, errors=(10, 20, 30, 40)) for rank in (1, 3)]
    (found,) = chosen_results(records)
    assert found.key is None and found.settings is None and found.unseen is None and points_lost(found) == 0
    assert [(found.of(cell).errors, found.of(cell).share, found.of(cell).caused) for cell in CELLS] == [
        (10, 0, 0), (20, 0, 0), (30, 0, 0), (40, 0, 0),
    ]  # fmt: skip


def test_failures_are_counted_and_a_method_that_only_failed_has_no_result(sweep_record):
    records = [
        sweep_record(settings={"rank": 1}),
        sweep_record(settings={"rank": 3}, status="failed"),
        sweep_record("dense", status="failed"),
    ]
    (found,) = chosen_results(records)
    assert (found.method, found.tried, found.failed) == ("rewrite", 1, 1)
    assert chosen_results(records[1:]) == []


def test_the_site_is_chosen_like_any_setting_or_each_site_has_its_own_choice(sweep_record):
    records = [
        sweep_record(site=site, settings={"rank": rank}, gained=gained)
        for site, rank, gained in (("a", 1, 5), ("a", 3, 6), ("b", 1, 9), ("b", 3, 4))
    ] + [sweep_record("last-layer", site=None)]
    best = {each.method: each for each in chosen_results(records)}
    assert (best["rewrite"].site, best["rewrite"].settings) == ("b", {"rank": 1}) and best["last-layer"].site is None
    by_site = {(each.method, each.site): each.settings["rank"] for each in chosen_results(records, by_site=True)}
    assert by_site == {("rewrite", "a"): 3, ("rewrite", "b"): 1, ("last-layer", None): 1}


def test_what_differs_in_more_than_settings_is_never_weighed_against_each_other(sweep_record):
    base = sweep_record()
    others = {"model": "other", "target": "bus", "exemplars": 10, "seed": 1, "reference": "x", "max_drop": 0.01,
              "validation": 0.5, "style": "sand", "concept": "wheel", "cases": "other", "device": "cuda",
              "versions": {"torch": "3"}}  # fmt: skip
    for name, value in others.items():
        assert len(chosen_results([base, sweep_record(**{name: value})])) == 2, name


def naive(records):
    """Twin: for every record, whether none beats it among those that share all but settings and site."""
    chosen = {}
    for each in records:
        if each.result is None or each.result["chosen"] is None:
            continue
        place = str(sorted((k, str(v)) for k, v in each.job.items() if k not in ("settings", "site")))
        validation, known = each.result["chosen"]["validation"], each.result["chosen"]["reference"]
        score = (validation["repaired"] - validation["broken"], -known["flips"] / known["n"])
        old = chosen.get(place)
        if old is None or score > old[0] or (score == old[0] and each.key < old[1]):
            chosen[place] = (score, each.key)
    return {key for _, key in chosen.values()}


def random_records(sweep_record, seed):
    rng = random.Random(seed)
    return [
        sweep_record(
            method, style, site=site, settings={"rank": rank}, gained=rng.randint(0, 3), flips=rng.randint(0, 2),
            corrected=rng.randint(0, 10), status=rng.choice(["done"] * 5 + ["failed"]),
        )
        for method in ("rewrite", "dense")
        for style in ("snow", "sand")
        for site in ("a", "b")
        for rank in range(6)
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_is_that_of_the_naive_twin_in_any_order(sweep_record, seed):
    records = random_records(sweep_record, seed)
    found = chosen_results(records)
    assert {each.key for each in found if each.key is not None} == naive(records)
    assert chosen_results(random.Random(seed).sample(records, len(records))) == found


@pytest.mark.parametrize("by_site", [True, False])
def test_the_tests_and_the_unseen_half_can_never_change_the_choice(sweep_record, by_site):
    records = random_records(sweep_record, 3)
    rng = random.Random(0)
    changed = copy.deepcopy(records)
    for each in changed:
        for cell in CELLS if each.result else ():
            each.result["cells"][cell] |= {name: rng.randint(0, 9) for name in ("left", "caused", "repaired", "broken")}
        if each.result and each.result["reference"]:
            each.result["reference"] |= {"repaired": rng.randint(0, 99), "broken": rng.randint(0, 99)}
    before, after = chosen_results(records, by_site=by_site), chosen_results(changed, by_site=by_site)
    assert [each.key for each in before] == [each.key for each in after]
    assert before != after, "the control changed nothing"


def test_targets_and_seeds_of_a_case_are_averaged_first_and_cases_with_few_errors_do_not_count(sweep_record):
    records = [
        sweep_record(corrected=0, target="van"),
        sweep_record(corrected=10, target="bus"),
        sweep_record(corrected=10, target="car"),
        sweep_record(corrected=4, errors=4, target="cab"),
        sweep_record(style="sand", corrected=1, caused=3),
        sweep_record(style="mud", corrected=4, errors=4),
    ]
    results = chosen_results(records)
    found = average_by_case(results, corrected(TARGET))
    assert found == {Case("roads", "road", "sand"): 0.1, Case("roads", "road", "snow"): pytest.approx(2 / 3)}
    assert average_by_case(results, corrected(TARGET, 4))[Case("roads", "road", "mud")] == 1
    assert average_by_case(results, net(TARGET))[Case("roads", "road", "sand")] == pytest.approx(-0.2)
    summary = summarise(found)
    assert summary.cases == 2 and summary.mean == pytest.approx((0.1 + 2 / 3) / 2)
    assert summary.interval == pytest.approx((0.1, 2 / 3))


def test_no_errors_are_no_result_even_if_none_are_asked_for(sweep_record):
    assert average_by_case(chosen_results([sweep_record(errors=0, corrected=0)]), corrected(TARGET, 0)) == {}


def cases_of(values):
    return {Case("set", "road", f"{i:03}"): float(value) for i, value in enumerate(values)}


@pytest.mark.slow
def test_intervals_cover_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        low, high = summarise(cases_of(rng.normal(0.4, 0.2, 40))).interval
        held += low <= 0.4 <= high
    assert 0.90 <= held / 300 <= 0.98


def test_one_case_has_no_interval_and_none_has_no_mean():
    assert summarise(cases_of([0.3])).interval is None
    assert summarise({}).to_json() == {"mean": None, "interval": None, "cases": 0}


def test_methods_are_compared_on_the_splits_that_both_have(sweep_record):
    styles = ["snow", "sand", "mud", "ice", "grass", "gravel"]
    one = [sweep_record("rewrite", style, corrected=8) for style in styles]
    two = [sweep_record("dense", style, corrected=8 if style == "mud" else 6) for style in styles]
    extra = [sweep_record("rewrite", "wood", corrected=0), sweep_record("rewrite", "mud", target="bus", corrected=0)]
    results = chosen_results([*one, *two, *extra])
    first, second = ([each for each in results if each.method == name] for name in ("rewrite", "dense"))
    found = compare_methods(first, second, corrected(OTHER))
    assert found.difference.cases == 6 and found.difference.mean == pytest.approx(5 * 0.2 / 6)
    assert (found.wins, found.losses, found.p) == (5, 0, 2 / 2**5)
    mirrored = compare_methods(second, first, corrected(OTHER))
    assert mirrored.difference.mean == -found.difference.mean and (mirrored.wins, mirrored.losses) == (0, 5)


def test_differences_of_rounding_are_no_wins():
    found = compare_values(cases_of([0.1 + 0.2] * 3), cases_of([0.3] * 3))
    assert (found.wins, found.losses, found.p) == (0, 0, 1)


def test_pairing_tells_more_than_two_means_do():
    """Cases differ far more than methods: the paired interval holds no zero though those of the means overlap."""
    rng = np.random.default_rng(1)
    second = rng.uniform(0, 1, 12)
    paired = compare_values(cases_of(second + 0.05 + rng.uniform(-0.02, 0.02, 12)), cases_of(second))
    assert paired.difference.interval[0] > 0 and paired.p < 0.001
    one, two = summarise(cases_of(second + 0.05)), summarise(cases_of(second))
    assert one.interval[0] < two.interval[1]


def test_failed_jobs_are_named_by_what_the_others_know(sweep_record):
    done, failed = sweep_record(), sweep_record(settings={"rank": 9}, status="failed")
    names = names_of([failed, done])
    assert study_of(failed.job, names) == study_of(done.job, names)
    assert study_of(failed.job, {}).model == failed.job["model"][:12]


def test_other_records_are_refused(sweep_record):
    with pytest.raises(SettingError, match="got a record of seed"):
        chosen_results([Record({"seed": 0}, "done", {})])
    with pytest.raises(SettingError, match="results of a sweep"):
        chosen_results([replace(sweep_record(), result={"x": 1})])

import copy
import hashlib

import pytest
import torch

from rulepatch.core.edit import base_digest
from rulepatch.digests import digest_of_bytes, digest_of_json, digest_of_state, digest_of_tensors
from rulepatch.models.registry import load_model

BASE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4)}


def changed(**entries):
    return {**BASE, **entries}


CHANGES = {
    "one bit of a value": changed(b=torch.tensor([1, 1, 1, 1 + 2**-23])),
    "the sign of zero": changed(a=torch.tensor([[-0.0, 1, 2], [3, 4, 5]])),
    "the shape": changed(a=BASE["a"].reshape(3, 2)),
    "the type": changed(b=torch.ones(4, dtype=torch.float64)),
    "a type of the same size": changed(b=torch.ones(4).view(torch.int32)),
    "a name": {"a": BASE["a"], "c": BASE["b"]},
    "two names swapped": {"a": BASE["b"], "b": BASE["a"]},
    "one more": changed(c=torch.zeros(0)),
    "one fewer": {"a": BASE["a"]},
    "values moved from one to the other": {"a": torch.arange(5.0), "b": torch.tensor([5.0, 1, 1, 1, 1])},
    "nothing at all": {},
    "an empty tensor before it": {"a": BASE["a"], "b": torch.zeros(0), "c": BASE["b"]},
    "the same, spelt in a name": {"a": BASE["a"], "b|torch.float32|(0,)|c": BASE["b"]},
}


def test_every_change_of_tensors_changes_their_digest():
    digests = {name: digest_of_tensors(tensors) for name, tensors in CHANGES.items()}
    digests["unchanged"] = digest_of_tensors(BASE)
    assert len(set(digests.values())) == len(digests)


def test_order_strides_gradients_and_being_a_parameter_do_not_count():
    wide = torch.zeros(3, 2)
    wide.T.copy_(BASE["a"])
    same = {"b": torch.nn.Parameter(BASE["b"].clone()), "a": wide.T}
    assert not same["a"].is_contiguous()
    assert digest_of_tensors(same) == digest_of_tensors(BASE)


def test_nan_and_numbers_of_every_type_and_no_dimension_have_digests():
    kinds = [torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.complex64, torch.uint8]
    digests = {digest_of_tensors({"x": torch.tensor(1).to(kind)}) for kind in kinds}
    digests.add(digest_of_tensors({"x": torch.tensor(torch.nan)}))
    assert len(digests) == len(kinds) + 1


def test_digest_of_bytes_is_sha256():
    assert digest_of_bytes(b"rule") == hashlib.sha256(b"rule").hexdigest()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"b": 1}),
        ({"a": 1}, {"a": "1"}),
        ({"a": 1}, {"a": 1, "b": None}),
        ([1, 2], [2, 1]),
        (["a", "b"], ["ab"]),
        ({"a": {"b": [1]}}, {"a": {"b": [[1]]}}),
        (0.1, 0.1 + 2**-56),
        ("", None),
    ],
)
def test_every_change_of_a_json_value_changes_its_digest(one, other):
    assert digest_of_json(one) != digest_of_json(other)
    assert digest_of_json(one) == digest_of_json(one)


def test_order_of_keys_does_not_count_at_any_depth():
    assert digest_of_json({"x": {"a": 1, "b": 2}, "y": 3}) == digest_of_json({"y": 3, "x": {"b": 2, "a": 1}})


def test_the_digest_of_the_playground_is_what_it_was():
    """Edits of earlier versions fit."""
    digest = base_digest(load_model("playground").module)
    assert digest == "b1043d2452d472fa6a1ef981a19f214e97ab979951ce9a8ea536270666cd145f"


OTHER_THINGS = {
    "numbers": ({"a": 1, "b": [2.5, None, True]}, {"a": 1, "b": [2.5, None, False]}),
    "bytes": (b"12", b"13"),
    "keys": ({"a": 1}, {"b": 1}),
    "tensors in tuples": ((torch.zeros(2), None), (torch.ones(2), None)),
    "lengths": ([torch.zeros(0)], []),
    "types of numbers": (1, 1.0),
    "sparse tensors": (torch.eye(2).to_sparse(), (2 * torch.eye(2)).to_sparse()),
    "types": (torch.float32, torch.float16),
}


@pytest.mark.parametrize("name", OTHER_THINGS)
def test_states_of_other_things_than_tensors_have_digests_that_tell_them_apart(name):
    one, other = OTHER_THINGS[name]
    weight = torch.ones(3)
    assert digest_of_state({"w": weight, "x": one}) == digest_of_state({"x": copy.deepcopy(one), "w": weight})
    assert digest_of_state({"w": weight, "x": one}) != digest_of_state({"w": weight, "x": other})


def test_objects_count_by_their_type_alone():
    assert digest_of_state({"x": object()}) == digest_of_state({"x": object()})
    assert digest_of_state({"x": object()}) != digest_of_state({"x": Exception()})

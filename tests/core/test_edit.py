"""Edits: applied, taken back to the bit, saved, loaded, scaled, composed."""

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from rulepatch.core.changes import Dense, Gate, LowRank
from rulepatch.core.edit import Edit, base_digest
from rulepatch.core.patched_model import EditedLayer
from rulepatch.errors import BaseMismatchError, EditFileError, RulepatchError, SettingError, SiteError, WeightsError

SHAPES = {
    "0.0": (8, 3, 3, 3),
    "1.conv2": (8, 8, 3, 3),
    "2.0": (12, 8, 3, 3),
    "3.conv": (12, 12, 1, 1),
    "6": (5, 12, 1, 1),
}


def change_at(site, *, rank=2, architecture=1, gate=None, strength=1.0, seed=0):
    c_out, c_in, y, x = SHAPES[site]
    generator = torch.Generator().manual_seed(seed)
    keys = c_in if architecture == 1 else c_in * y * x
    flat = torch.linalg.qr(torch.randn(keys, rank, generator=generator)).Q.T.contiguous()
    directions = flat if architecture == 1 else flat.reshape(rank, c_in, y, x)
    taps = (y, x) if architecture == 1 else ()
    coefficients = 0.3 * torch.randn(c_out, rank, *taps, generator=generator)
    if gate == "soft":
        gate = Gate("soft", 0.9, torch.full((rank,), 0.1))
    elif gate is not None:
        gate = Gate("hard", 0.9, torch.tensor([gate]), directions[0])
    return LowRank(site, site, directions, coefficients, strength, gate)


def edit_of(net, *changes):
    return Edit(changes, base_digest(net), {"method": "random", "seed": 0})


def dense_at(parameter, shape, *, strength=1.0, seed=0):
    return Dense(parameter, 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed)), strength)


DENSE = {"0.0.weight": (8, 3, 3, 3), "1.bn1.bias": (8,), "3.conv.bias": (12,), "6.weight": (5, 12)}

every_change = pytest.mark.parametrize(
    ("site", "architecture"), [(site, a) for site in SHAPES for a in (1, 2)], ids=lambda value: str(value)
)


@every_change
def test_applying_adds_the_change_to_the_weight(net, inputs, untouched, site, architecture):
    untouched(net)
    change = change_at(site, architecture=architecture)
    edit = edit_of(net, change)
    edited = edit.apply(net)
    weight = net.get_submodule(site).weight
    expected = weight.double() + change.delta().reshape(weight.shape)
    assert torch.equal(edited.get_submodule(site).weight, expected.float())
    assert not torch.equal(edited(inputs), net(inputs))
    with edit.applied(net) as same:
        assert same is net
        assert torch.equal(net(inputs), edited(inputs))


@pytest.mark.parametrize("parameter", DENSE)
def test_a_dense_change_is_added_to_its_parameter(net, inputs, untouched, parameter):
    untouched(net)
    edit = edit_of(net, dense_at(parameter, DENSE[parameter], strength=2.0))
    edited = edit.apply(net)
    change = 2 * edit.changes[0].values.double()
    assert torch.equal(edited.get_parameter(parameter), (net.get_parameter(parameter).double() + change).float())
    assert not torch.equal(edited(inputs), net(inputs))
    with edit.applied(net):
        assert torch.equal(net(inputs), edited(inputs))
    assert torch.equal(edit.merged(net)(inputs), edited(inputs))
    assert edit.sites == (parameter.rpartition(".")[0],)


def test_dense_and_low_rank_changes_of_one_weight_add_up(net, inputs):
    low_rank, dense = change_at("2.0"), dense_at("2.0.weight", (12, 8, 3, 3))
    gated = change_at("2.0", gate=0.3, seed=1)
    together = edit_of(net, low_rank, dense, gated)
    with together.applied(net):
        weight = net[2][0].layer.weight.clone()
    assert torch.equal(weight, (net[2][0].weight.double() + low_rank.delta() + dense.delta()).float())
    keys = net[:2](inputs)
    found = together.apply(net)[2][0](keys)
    alone = EditedLayer(net[2][0], [gated])(keys) - net[2][0](keys)
    assert torch.allclose(found, edit_of(net, low_rank, dense).apply(net)[2][0](keys) + alone, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda: Dense("6.wieght", torch.ones(5, 12)), SiteError, "nearest are 6.weight"),
        (lambda: Dense("6.weight", torch.ones(5, 11)), SiteError, r"\(5, 11\).*\(5, 12\)"),
        (lambda: Dense("6.weight", torch.full((5, 12), torch.nan)), SettingError, "finite change of 6.weight"),
        (lambda: Dense("6.weight", torch.ones(5, 12), float("nan")), SettingError, "finite strength"),
    ],
)
def test_dense_changes_that_do_not_fit_are_refused(net, change, error, words):
    with pytest.raises(error, match=words):
        edit_of(net, change()).apply(net)


@pytest.mark.parametrize("gate", [None, -1e9, "soft"])
@pytest.mark.parametrize("fails", [False, True])
def test_taking_back_is_bit_exact(net, inputs, untouched, gate, fails):
    net[0].train()
    untouched(net)
    before = net[1:](torch.ones(1, 8, 8, 8))
    try:
        dense = dense_at("1.bn1.bias", (8,))
        with edit_of(net, change_at("1.conv2", gate=gate), change_at("6", gate=gate), dense).applied(net):
            assert not torch.equal(net[1:](torch.ones(1, 8, 8, 8)), before)
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert fails
    assert torch.equal(net[1:](torch.ones(1, 8, 8, 8)), before)


@every_change
def test_a_gate_shut_everywhere_changes_no_bit(net, inputs, site, architecture):
    change = change_at(site, architecture=architecture, gate=1e9)
    edited = edit_of(net, change).apply(net)
    assert isinstance(edited.get_submodule(site), EditedLayer)
    assert edited(inputs).detach().numpy().tobytes() == net(inputs).detach().numpy().tobytes()


@every_change
def test_a_gate_open_everywhere_is_the_plain_edit(net, inputs, site, architecture):
    gated = edit_of(net, change_at(site, architecture=architecture, gate=-1e9)).apply(net)
    plain = edit_of(net, change_at(site, architecture=architecture)).apply(net)
    assert torch.allclose(gated(inputs), plain(inputs), atol=1e-5)
    assert not torch.allclose(plain(inputs), net(inputs), atol=1e-3)


@pytest.mark.parametrize("site", ["0.0", "3.conv"])
def test_a_gate_multiplies_the_maps_before_the_taps(net, inputs, site):
    """The naive twin of y = W k + g(k)·ΔW k, position by position."""
    change = change_at(site, gate=0.3, strength=2.0)
    layer = net.get_submodule(site)
    keys = inputs if site == "0.0" else net[:3](inputs)
    gate = (torch.einsum("nchw,c->nhw", keys, change.directions[0]) > 0.3)[:, None]
    assert 0 < float(gate.float().mean()) < 1
    added = nn.functional.conv2d(keys * gate, change.delta().float(), padding=layer.padding)
    found = EditedLayer(layer, [change])(keys)
    assert torch.allclose(found, layer(keys) + added, atol=1e-5)
    shut = nn.functional.max_pool2d(gate.float(), layer.kernel_size, 1, layer.padding) == 0
    assert torch.equal(found.masked_select(shut), layer(keys).masked_select(shut))


def test_soft_gates_are_new_neurons_beside_the_layer(net, inputs):
    change = change_at("3.conv", gate="soft", strength=2.0)
    keys = net[:3](inputs)
    neurons = nn.functional.relu(torch.einsum("nchw,rc->nrhw", keys, change.directions) - 0.1)
    expected = net[3].conv(keys) + 2 * torch.einsum("nrhw,or->nohw", neurons, change.coefficients[..., 0, 0])
    assert torch.allclose(EditedLayer(net[3].conv, [change])(keys), expected, atol=1e-5)


def test_an_edited_model_moves_and_saves_like_any_other(net, inputs):
    edited = edit_of(net, change_at("3.conv", gate=0.3)).apply(net)
    assert torch.allclose(edited.double()(inputs.double()).float(), edited.float()(inputs), atol=1e-4)
    state = {name: tensor.clone() for name, tensor in edited.state_dict().items()}
    again = edit_of(net, change_at("3.conv", gate=0.3, seed=5)).apply(net)
    again.load_state_dict(state)
    assert torch.equal(again(inputs), edited(inputs))


@given(strength=st.floats(-4, 4))
@settings(deadline=None, max_examples=20)
def test_strength_scales_the_change(strength):
    change = change_at("2.0")
    edit = Edit((change,), "base").with_strength(strength)
    assert torch.allclose(edit.changes[0].delta(), strength * change.delta())
    assert torch.equal(edit.with_strength(1).changes[0].delta(), change.delta())


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_strengths_that_are_no_number_are_refused(strength):
    with pytest.raises(SettingError, match="finite strength"):
        Edit((change_at("6"),), "base").with_strength(strength)


def test_factors_that_are_no_numbers_are_refused():
    with pytest.raises(SettingError, match="finite factors"):
        LowRank("6", "6", torch.full((1, 12), torch.nan), torch.ones(5, 1, 1, 1))


def test_composed_edits_add_up(net, inputs):
    a, b = change_at("2.0"), change_at("2.0", seed=1)
    both = Edit.compose(edit_of(net, a), edit_of(net, b), edit_of(net, change_at("6")))
    assert both.sites == ("2.0", "6") and len(both.changes) == 3
    with both.applied(net):
        changed = net[2][0].weight.clone()
    assert torch.allclose(changed, (net[2][0].weight.double() + a.delta() + b.delta()).float())
    one_after_another = edit_of(net, a).apply(net)
    assert len(both.provenance["composed"]) == 3
    assert not torch.equal(both.apply(net)(inputs), one_after_another(inputs))


def test_plain_and_gated_changes_of_one_site_add_up(net, inputs):
    keys = net[:3](inputs)
    plain, gated = change_at("3.conv"), change_at("3.conv", gate=0.3, seed=1)
    edited = Edit.compose(edit_of(net, plain), edit_of(net, gated)).apply(net)
    alone = [EditedLayer(net[3].conv, [change])(keys) - net[3].conv(keys) for change in (gated,)]
    expected = edit_of(net, plain).apply(net)[3].conv(keys) + alone[0]
    assert torch.allclose(edited[3].conv(keys), expected, atol=1e-5)


def test_edits_of_different_bases_do_not_compose(net):
    other = Edit((change_at("6"),), "another base")
    with pytest.raises(BaseMismatchError, match="another base"):
        Edit.compose(edit_of(net, change_at("6")), other)


def test_another_base_is_refused_naming_both_digests(net, inputs, untouched):
    edit = edit_of(net, change_at("6"))
    net[6].bias.data[0] += 1
    untouched(net)
    for use in (edit.apply, lambda model: edit.applied(model).__enter__(), edit.merged):
        with pytest.raises(BaseMismatchError) as caught:
            use(net)
        assert edit.base[:12] in str(caught.value) and base_digest(net)[:12] in str(caught.value)
    assert not torch.equal(edit.apply(net, any_base=True)(inputs), net(inputs))


def test_wrong_sites_and_shapes_are_refused(net):
    missing = Edit((LowRank("7", "7", torch.ones(1, 12), torch.ones(5, 1, 1, 1)),), base_digest(net))
    with pytest.raises(SiteError, match="nearest are"):
        missing.apply(net)
    misshapen = Edit((LowRank("6", "6", torch.ones(1, 11), torch.ones(5, 1, 1, 1)),), base_digest(net))
    with pytest.raises(SiteError, match=r"\(5, 11, 1, 1\).*\(5, 12, 1, 1\)"):
        misshapen.apply(net)


def test_weights_that_are_no_numbers_are_refused(net):
    net[6].weight.data[0, 0] = torch.nan
    with pytest.raises(WeightsError, match="NaN"):
        Edit((change_at("6"),), base_digest(net)).apply(net)


def test_gated_edits_do_not_merge_into_weights(net):
    with pytest.raises(SettingError, match=r"gated at 6"):
        edit_of(net, change_at("6", gate=0.1)).merged(net)
    assert torch.equal(
        edit_of(net, change_at("6")).merged(net)[6].weight, edit_of(net, change_at("6")).apply(net)[6].weight
    )


def test_the_digest_of_a_base_sees_every_tensor(net):
    digests = {base_digest(net)}
    for name, tensor in net.state_dict().items():
        kept = tensor.clone()
        tensor.view(-1)[0] += 1
        digests.add(base_digest(net))
        tensor.copy_(kept)
        assert base_digest(net) in digests, name
    assert len(digests) == len(net.state_dict()) + 1


all_kinds = [(1, None), (2, None), (1, 0.3), (2, 0.3), (1, "soft")]


@pytest.mark.parametrize(("architecture", "gate"), all_kinds)
def test_saved_edits_load_to_the_same_bits(net, inputs, tmp_path, architecture, gate):
    low_rank = change_at("2.0", architecture=architecture, gate=gate, strength=1.7)
    edit = edit_of(net, low_rank, change_at("6"), dense_at("6.weight", (5, 12)))
    edit.save(tmp_path / "edit.safetensors")
    loaded = Edit.load(tmp_path / "edit.safetensors")
    assert loaded.describe() == edit.describe()
    assert torch.equal(loaded.apply(net)(inputs), edit.apply(net)(inputs))
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "edit.safetensors").read_bytes()


def test_an_edit_file_is_small(tmp_path):
    change = LowRank("x", "x", torch.randn(1, 512), torch.randn(512, 1, 3, 3))
    Edit((change,), "0" * 64).save(tmp_path / "edit.safetensors")
    assert (tmp_path / "edit.safetensors").stat().st_size < 25_000  # the weight itself has 9,437,184 bytes


@pytest.fixture
def saved(net, tmp_path):
    edit_of(net, change_at("2.0", gate=0.3)).save(tmp_path / "edit.safetensors")
    return tmp_path / "edit.safetensors"


def rewrite_metadata(path, change):
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    described = json.loads(header["__metadata__"]["rulepatch"])
    change(described)
    header["__metadata__"]["rulepatch"] = json.dumps(described)
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + content[8 + length :])


damages = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "cut in the header": lambda path: path.write_bytes(path.read_bytes()[:50]),
    "empty": lambda path: path.write_bytes(b""),
    "one bit flipped": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "text": lambda path: path.write_text("an edit"),
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pickle": lambda path: torch.save({"a": torch.ones(1)}, path),
    "other safetensors": lambda path: save_file({"a": torch.ones(1)}, path),
    "foreign metadata": lambda path: save_file({"a": torch.ones(1)}, path, metadata={"rulepatch": "[1]"}),
    "empty metadata": lambda path: save_file({"a": torch.ones(1)}, path, metadata={"rulepatch": "{}"}),
    "newer schema": lambda path: rewrite_metadata(path, lambda described: described.update(schema=99)),
    "strength changed": lambda path: rewrite_metadata(path, lambda d: d["changes"][0].update(strength=9)),
    "site changed": lambda path: rewrite_metadata(path, lambda d: d["changes"][0].update(site="6")),
    "provenance changed": lambda path: rewrite_metadata(path, lambda d: d["provenance"].update(method="magic")),
}


@pytest.mark.parametrize("damage", damages)
def test_damaged_and_tampered_files_are_refused(saved, damage):
    Edit.load(saved)  # the control: it was sound
    damages[damage](saved)
    with pytest.raises(EditFileError, match="expected"):
        Edit.load(saved)


def test_rewriting_nothing_is_no_tampering(saved):
    rewrite_metadata(saved, lambda described: None)
    Edit.load(saved)


def test_saving_is_whole_or_not_at_all(net, saved, monkeypatch):
    before = saved.read_bytes()

    write = Path.write_bytes

    def half(path, data):
        write(path, data[: len(data) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="disk full"):
        edit_of(net, change_at("6")).save(saved)
    assert saved.read_bytes() == before and [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_saving_into_no_folder_says_so(net, tmp_path):
    with pytest.raises(RulepatchError, match="folder"):
        edit_of(net, change_at("6")).save(tmp_path / "nowhere" / "edit.safetensors")


OLD = Path(__file__).parent / "edits_0_1"


@pytest.mark.parametrize("path", sorted(OLD.glob("*.safetensors")), ids=lambda path: path.stem)
def test_edits_of_version_0_1_are_read_and_do_what_they_did(path):
    """They were made by that version; what the edited playground said then lies beside them."""
    from rulepatch.models.registry import load_model

    edit, model = Edit.load(path), load_model("playground")
    inputs = model.inputs(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    with edit.applied(model):
        said = model.logits(inputs).flatten()[:4]
    assert said.tolist() == pytest.approx(json.loads((OLD / "logits.json").read_text())[path.stem], rel=1e-4, abs=1e-4)
    (report,) = edit.reports
    assert report.loss_after < report.loss_before and 0 <= report.certificate.unchanged_share <= 1
    method = edit.provenance["method"]
    assert (edit.how is None) == (method == "rewrite-rules")
    if edit.how is not None:
        assert edit.how.name == method and edit.how.strength == edit.changes[0].strength

"""LoRA adapters are the edits they were made of, as PEFT itself loads them."""

import warnings

import pytest
import torch
from torch import nn

from rulepatch.core.changes import Dense, Gate, LowRank
from rulepatch.core.edit import Edit, base_digest
from rulepatch.errors import SettingError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.pointwise, self.other = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 1), nn.ModuleDict()
        self.other["conv"] = nn.Conv2d(5, 4, 3, stride=2)  # its name ends like another's
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(torch.relu(self.other["conv"](self.pointwise(self.conv(x)))).mean((2, 3)))


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net().eval()


CHANGES = {
    "every tap": lambda: [LowRank("conv", "conv", torch.randn(2, 3), torch.randn(6, 2, 3, 3), 1.5)],
    "patches": lambda: [LowRank("conv", "conv", torch.randn(2, 3, 3, 3), torch.randn(6, 2), 0.5)],
    "several": lambda: [
        LowRank("pointwise", "pointwise", torch.randn(1, 6), torch.randn(5, 1, 1, 1)),
        LowRank("pointwise", "pointwise", torch.randn(2, 6), torch.randn(5, 2, 1, 1)),
        LowRank("head", "head", torch.randn(1, 4), torch.randn(2, 1, 1, 1)),
    ],
}


@pytest.mark.parametrize("name", CHANGES)
def test_peft_gives_the_edited_network(name, net, tmp_path):
    torch.manual_seed(1)
    edit = Edit(tuple(CHANGES[name]()), base_digest(net))
    picture = torch.randn(2, 3, 12, 12)
    before, expected = net(picture), edit.apply(net)(picture)
    edit.to_peft(tmp_path / "adapter", net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import PeftModel

        adapted = PeftModel.from_pretrained(net, tmp_path / "adapter").eval()
        got = adapted(picture)
        merged = adapted.merge_and_unload()(picture)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, expected, rtol=1e-2)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (
            LowRank("head", "head", torch.ones(1, 4), torch.ones(2, 1, 1, 1), gate=Gate("soft", 0.9, torch.ones(1))),
            "gated",
        ),
        (Dense("head.bias", torch.ones(2)), "dense"),
    ],
    ids=["gated", "dense"],
)  # fmt: skip
def test_what_no_adapter_can_hold_is_refused(change, kind, net, tmp_path):
    with pytest.raises(SettingError, match=kind):
        Edit((change,), base_digest(net)).to_peft(tmp_path / "adapter", net)
    assert not (tmp_path / "adapter").exists()

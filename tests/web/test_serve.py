"""The command that serves the page, as far as it goes without a page."""

import importlib.util
import logging
import socket
from pathlib import Path

import pytest

from rulepatch.errors import SettingError
from rulepatch.web import serve
from rulepatch.web.catalog import Catalog


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_on_this_machine_alone_nothing_is_said(host, caplog):
    with caplog.at_level(logging.WARNING, "rulepatch"):
        serve._warn(host)
    assert caplog.records == []


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.7", "::"])
def test_whoever_lets_others_in_is_warned(host, caplog):
    with caplog.at_level(logging.WARNING, "rulepatch"):
        serve._warn(host)
    assert "others can reach" in caplog.text


@pytest.mark.slow
def test_a_port_that_is_taken_is_refused_in_a_sentence(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingError, match="name another port"):
            serve._free("127.0.0.1", port)
        refused = run("web", "--no-browser", "--port", str(port))
        assert refused.code == 2 and "name another port" in refused.err and refused.err.count("\n") == 1


def test_a_free_port_is_found():
    assert serve._free("127.0.0.1", None) is None and 0 < serve._free("127.0.0.1", 0) < 65536


def test_without_gradio_the_extra_is_named(run, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "gradio" else real(name, *rest)
    )
    refused = run("web", "--no-browser")
    assert refused.code == 2 and "rulepatch[ui]" in refused.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tests", "nowhere"), "--tests"),
        (("--model", "torchvision/resnet18"), "--reference"),
        (("--port", "many"), "--port"),
    ],
)
def test_bad_options_are_one_sentence(run, options, words):
    refused = run("web", "--no-browser", *options)
    assert refused.code == 2 and words in refused.err and refused.err.count("\n") == 1


def test_offers_leave_nothing_behind():
    catalog = Catalog()
    root = catalog._playground.name
    catalog.close()
    assert not Path(root).exists()

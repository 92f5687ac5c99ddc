"""A server with the playground, and a real browser to look at it with."""

import importlib.util
import os
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def person():
    """The helper that drives the page."""
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks import person
    finally:
        sys.path.remove(str(ROOT))
    if importlib.util.find_spec("gradio") is None or importlib.util.find_spec("playwright") is None:
        pytest.skip("needs Gradio and Playwright: pip install 'rulepatch[dev]'")
    return person


@pytest.fixture(scope="session")
def browsers(person):
    if person.chromium() is None:
        pytest.skip("needs a Chromium: apt-get install chromium")
    with person.people() as start:
        yield start


@pytest.fixture(scope="session")
def browser(browsers):
    return browsers()


@pytest.fixture(scope="session")
def address(person, tmp_path_factory):
    """The page with the playground alone."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RULEPATCH_CACHE": str(tmp_path_factory.mktemp("cache"))}
    with person.server("--port", "0", environment=environment) as (address, _):
        yield address


@pytest.fixture(scope="session")
def ask(address):
    """Ask the server for something by hand, as somebody who knows its token."""
    base, _, token = address.partition("?token=")
    cookie = f"rulepatch-{urllib.parse.urlsplit(base).port}={token}"

    def call(path, body=None, **headers):
        request = urllib.request.Request(f"{base}{path}", body, {"Cookie": cookie} | headers)
        return urllib.request.urlopen(request, timeout=600)

    return call


@pytest.fixture
def someone(person, browser, address):
    """Somebody at a page of their own; others can be asked for."""
    everybody = []

    def come(**further):
        everybody.append(person.Person(browser, address, **further))
        return everybody[-1]

    yield come
    for each in everybody:
        assert each.elsewhere == []  # nothing is fetched from outside
        each.page.close()

"""How many functions stand between a public call and an equation, counted on the stack."""

import functools
import sys
from pathlib import Path

import pytest

import rulepatch as rp
from rulepatch.core import linalg
from rulepatch.editors.edit import edit
from rulepatch.playground.pictures import exemplar, training_images

EQUATIONS = {"directions": 2, "gated": 2, "ridge_path": 2, "damage": 2, "masked_error": 2, "second_moment": 4}
"""Functions to open after the public one, the equation's own included; the network's forwards are not counted."""

SOURCE = Path(rp.__file__).parent


def ways_of(call, monkeypatch):
    """The shortest way to each equation: names of rulepatch's own functions, the public one first."""
    ways = {}

    def watched(name, equation):
        @functools.wraps(equation)
        def watching(*args, **kwargs):
            way, frame = [name], sys._getframe(1)
            while frame is not None:
                code = frame.f_code
                own = Path(code.co_filename).is_relative_to(SOURCE)
                if own and code.co_name != "forward" and not code.co_name.startswith("<"):
                    way.append(code.co_name)
                frame = frame.f_back
            ways[name] = min(ways.get(name, way), way, key=len)
            return equation(*args, **kwargs)

        return watching

    with monkeypatch.context() as patch:
        for name in EQUATIONS:
            patch.setattr(linalg, name, watched(name, getattr(linalg, name)))
        call()
    return {name: way[::-1] for name, way in ways.items()}


@pytest.mark.parametrize("public", [rp.rewrite, edit], ids=["rewrite", "edit"])
def test_it_is_two_functions_from_the_call_to_every_equation(public, monkeypatch):
    model = rp.load_model("playground")
    given = {"reference": training_images(20, seed=2), "site": "blocks.4.conv", "cache": None, "progress": False}
    ways = ways_of(lambda: public(model, [exemplar("van", ground="snow", seed=1)], **given), monkeypatch)
    assert set(ways) == set(EQUATIONS)
    for name, way in ways.items():
        assert way[0] == "edit" and len(way) - 1 <= EQUATIONS[name], " > ".join(way)


def test_the_docs_say_the_same():
    page = SOURCE.parents[1] / "docs" / "architecture.md"
    if not page.is_file():
        pytest.skip("the docs do not lie beside an installed package")
    told = page.read_text(encoding="utf-8")
    assert all(f"`linalg.{name}`" in told for name in EQUATIONS)

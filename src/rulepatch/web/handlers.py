"""Event handlers of the page: each operates on a session's workbench and returns updates of components."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rulepatch.concepts.painting import Painting, mask_by_name, mask_from_points
from rulepatch.data.folders import Picture
from rulepatch.errors import EditFileError, RulepatchError, SettingError
from rulepatch.images import read_image
from rulepatch.masks import read_mask
from rulepatch.methods import Rewrite
from rulepatch.settings import written
from rulepatch.web import views
from rulepatch.web.canvas import CANVAS, canvas_of, fresh, mask_of
from rulepatch.web.catalog import pictures_of
from rulepatch.web.recipes import commands, program, write_bundle
from rulepatch.web.sessions import Session
from rulepatch.web.workbench import Side

__all__ = ["ALL", "SEARCH", "Part", "Updates"]


class Part(dict[str, Any]):
    """Properties of a component besides its value: choices, whether it is interactive."""


Updates = dict[str, Any]
"""New values, or a `Part`, of components by name."""

SEARCH = "choose by itself (search)"
ALL = "all classes"

MOST_PICTURES = 48
"""Most images that are offered at once."""

LONGEST_SIDE = 1024
"""Of an uploaded image; larger ones are made smaller, as networks look at some hundred pixels."""


# The model and its images


def begin(session: Session, model: str) -> Updates:
    """Initialise the page for a model."""
    place, bench = session.place, session.bench
    vocabulary = [] if place.segmenter is None else list(place.segmenter.vocabulary or ())
    told = "" if place.segmenter else "No segmenter was named: start the app with `--segmenter NAME` to use this."
    return {
        "about": f"{len(bench.classes)} classes; {len(bench.reference)} reference images",
        "folder": Part(choices=list(place.folders), value="reference"),
        "concept": Part(choices=vocabulary, value=vocabulary[0] if vocabulary else None),
        "by_name": Part(interactive=place.segmenter is not None),
        "unnamed": told,
        "site": Part(choices=[SEARCH, *bench.sites], value=SEARCH),
        **_chosen(Rewrite()), "name": "", "word": "", "title": "",
        "textures": [(fresh(picture), name) for name, picture in place.textures],
        **list_pictures(session, "reference", ALL), **choose(session, 0), "numbers": "", "wall": "",
    }  # fmt: skip


def look(session: Session) -> Updates:
    """Show predictions for the tests."""
    return _everything(session)


def list_pictures(session: Session, folder: str, label: str) -> Updates:
    """Offer the images of a folder, of one class or of all."""
    images = pictures_of(session.place, folder, session.bench.model)
    classes = session.bench.model.classes
    labels = sorted({classes[each.label] for each in images.pictures if each.label is not None})
    chosen = label if label in labels else ALL
    if chosen == ALL:
        session.choice = list(images.sample(MOST_PICTURES, seed=0).pictures)
    else:
        own = [each for each in images.pictures if each.label is not None and classes[each.label] == chosen]
        session.choice = own[:MOST_PICTURES]
    shown = [(fresh(views.small(each)), "" if each.label is None else classes[each.label]) for each in session.choice]
    return {
        "choice": Part(value=shown, selected_index=None),
        "label": Part(choices=[ALL, *labels], value=chosen),
    }


def choose(session: Session, index: int) -> Updates:
    """Select an offered image."""
    if not 0 <= index < len(session.choice):
        raise SettingError("expected one of the images shown but it is gone; choose again")
    return _begin_painting(session, session.choice[index])


def upload(session: Session, content: bytes) -> Updates:
    """Upload an image."""
    image = read_image(content)
    shown = _begin_painting(session, Picture(_made_smaller(image)))
    session.full_size = image.size
    return shown


def _begin_painting(session: Session, picture: Picture) -> Updates:
    before, session.points, session.full_size = session.painting, [], None
    session.painting = Painting.of(picture)
    if before is not None and before.texture is not None:
        session.painting = session.painting.replaced_by(before.texture, before.replacement or "")
    return _picture(session)


# Marking


def paint(session: Session, painted: Any, name: str) -> Updates:
    """Read the painted mask."""
    if session.painting is None:
        return {}
    size, before = session.painting.image.size, canvas_of(session.painting.image, session.painting.mask)
    mask, shown = mask_of(painted, size), mask_of(before, size)
    if (mask is None and shown is None) or (mask is not None and shown is not None and (mask == shown).all()):
        return {}  # the painter echoes its own value
    session.painting = session.painting.marked(mask, name.strip() or session.painting.concept)
    return {"clicked": _canvas(session)["clicked"], "predictions": views.predictions(session.bench, session.painting)}


def mark_by_name(session: Session, concept: str | None) -> Updates:
    """Mark a concept with the segmenter."""
    painting, segmenter = _painting(session), session.place.segmenter
    if segmenter is None:
        raise SettingError("expected a segmenter but none was named; start the app with --segmenter NAME")
    name = (concept or "").strip()
    session.painting = painting.marked(mask_by_name(segmenter, painting, name), name)
    return {**_picture(session), "name": name}


def click(session: Session, at: Sequence[float], site: str, likeness: float, name: str) -> Updates:
    """Add a clicked point, and mark the region with similar features."""
    image = _painting(session).image
    factor = max(image.size) / CANVAS
    session.points.append((at[0] * factor, at[1] * factor))
    try:
        return mark_by_points(session, site, likeness, name)
    except SettingError:
        session.points.pop()  # outside of what the network sees
        raise


def mark_by_points(session: Session, site: str, likeness: float, name: str) -> Updates:
    """Mark the region with features similar to the clicked points."""
    if not session.points:
        return {}
    painting, bench = _painting(session), session.bench
    where = bench.sites[-1] if site == SEARCH else site
    mask = mask_from_points(
        bench.model, painting.image, session.points, site=where, statistics=bench.statistics([where]), likeness=likeness
    )
    session.painting = painting.marked(mask, name.strip() or painting.concept)
    return _picture(session)


def forget(session: Session) -> Updates:
    """Clear the clicked points and the mask."""
    session.points = []
    session.painting = _painting(session).marked(None)
    return _picture(session)


def upload_mask(session: Session, content: bytes, name: str) -> Updates:
    """Upload a mask."""
    painting = _painting(session)
    mask = read_mask(content)
    if mask.shape[::-1] == session.full_size:  # made smaller with its image
        reduced = Image.fromarray(mask, mode="F").resize(painting.image.size, Image.Resampling.BOX)
        mask = np.asarray(reduced).clip(0, 1)
    session.painting = painting.marked(mask, name.strip() or painting.concept)
    return _picture(session)


# Replacement of the concept


def replace_by(session: Session, index: int) -> Updates:
    """Select an offered texture."""
    name, texture = session.place.textures[index]
    return _replaced(session, _painting(session).replaced_by(texture, name))


def upload_texture(session: Session, content: bytes) -> Updates:
    """Upload a texture."""
    return _replaced(session, _painting(session).replaced_by(_made_smaller(read_image(content)), "a texture"))


def write(session: Session, word: str) -> Updates:
    """Paste a note with a word."""
    if not word.strip():
        raise SettingError("expected a word for the note but got none; write one")
    return _replaced(session, _painting(session).with_word(word.strip()))


def _replaced(session: Session, painting: Painting) -> Updates:
    found = views.predictions(session.bench, painting)  # a word that does not fit is refused here
    session.painting = painting
    return {"predictions": found}


# Exemplars, the rewrite, the rules


def add(session: Session) -> Updates:
    """Add the painting as an exemplar."""
    _painting(session)
    session.learnt = None
    session.commit()
    return {"exemplars": views.exemplars(session.bench)}


def remove(session: Session) -> Updates:
    """Remove an exemplar."""
    session.bench.remove()
    return {"exemplars": views.exemplars(session.bench)}


def rewrite(session: Session, site: str, rank: float, strength: float, gate: str) -> Updates:
    """Make an edit, and measure repair."""
    bench = session.bench
    before = bench.state
    try:
        session.commit()
        if site == SEARCH:
            draft = bench.search()
        else:
            draft = bench.rewrite(site, rank=rank, strength=strength, gate=gate.lower())
    except RulepatchError:
        while bench.state is not before and bench.undo():
            pass
        raise
    return {**_everything(session, damage=False), **_chosen(draft.how)}


def _chosen(how: Rewrite) -> Updates:
    """The settings that the page has parts for."""
    return {"rank": how.rank, "strength": how.strength, "gate": written(how.gate)}


def adjust(session: Session, rank: float, strength: float, gate: str) -> Updates:
    """Recompute the edit with other settings."""
    if session.bench.adjust(rank=rank, strength=strength, gate=gate.lower()) is None:
        return {}
    return _result(session, damage=False)


def measure(session: Session) -> Updates:
    """Measure damage."""
    return _result(session, damage=True, only_numbers=True)


def undo(session: Session) -> Updates:
    """Undo one step."""
    session.bench.undo()
    session.learnt = None
    return _everything(session)


def keep(session: Session, title: str) -> Updates:
    """Keep the edit as a rule."""
    session.bench.keep(title)
    session.learnt = session.painting  # the next rewrite starts from a new painting
    return {**_everything(session), "title": ""}


def switch(session: Session, on: list[str]) -> Updates:
    """Switch rules on and off."""
    session.bench.switch(on)
    return _everything(session)


def load(session: Session, path: str) -> Updates:
    """Keep an edit from a file as a rule."""
    file = Path(path)
    try:
        session.bench.load(file, file.stem)
    except EditFileError as error:
        raise EditFileError(str(error).replace(path, file.name)) from None  # hide the path of uploads
    return _everything(session)


def fire(session: Session) -> Updates:
    """Show where the rule fires, with repaired tests first."""
    found = session.bench.outcomes("tests")
    pictures = [each.picture for each in views.ranked(found)] if found is not None else session.choice
    return {"heatmap": views.heatmap(session.bench, pictures)}


def save(session: Session) -> Updates:
    """Write the rules that are on into one edit file."""
    if not session.bench.edit.changes:
        raise SettingError("expected an edit to download but nothing was rewritten yet; press Rewrite first")
    path = session.folder / "edit.safetensors"
    session.bench.edit.save(path)
    return {"file": str(path)}


def bundle(session: Session) -> Updates:
    """Write the exemplars, the edits and how to make them again into one file."""
    if not session.bench.edit.changes:
        raise SettingError("expected an edit to download but nothing was rewritten yet; press Rewrite first")
    path = session.folder / "rulepatch.zip"
    write_bundle(session.bench.state, session.place.sources, path)
    return {"file": str(path)}


# Updates


def _painting(session: Session) -> Painting:
    if session.painting is None:
        raise SettingError("expected an image but none is chosen yet; choose or upload one")
    return session.painting


def _made_smaller(image: Image.Image) -> Image.Image:
    smaller = image.copy()
    smaller.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return image if smaller.size == image.size else smaller


def _canvas(session: Session) -> Updates:
    if session.painting is None:
        return {"painter": None, "clicked": None}
    value = canvas_of(session.painting.image, session.painting.mask)
    flat = value["background"].convert("RGBA")
    for layer in value["layers"]:
        flat = Image.alpha_composite(flat, layer)
    return {"painter": value, "clicked": fresh(flat.convert("RGB"))}


def _picture(session: Session) -> Updates:
    return {**_canvas(session), "predictions": views.predictions(session.bench, session.painting)}


def _everything(session: Session, *, damage: bool = True) -> Updates:
    rules = session.bench.state.rules
    return {
        "exemplars": views.exemplars(session.bench),
        "rules": Part(choices=[rule.name for rule in rules], value=[rule.name for rule in rules if rule.on]),
        **_result(session, damage=damage),
    }


def _result(session: Session, *, damage: bool, only_numbers: bool = False) -> Updates:
    bench = session.bench
    edited = bool(bench.edit.changes)
    sides: tuple[Side, ...] = ("tests", "clean")
    tests, clean = (bench.outcomes(side) if edited and (damage or side == "tests") else None for side in sides)
    numbers = {"numbers": views.numbers(bench, tests=tests, clean=clean, waiting=edited and not damage)}
    if only_numbers:
        return numbers
    draft, sources = bench.state.draft, session.place.sources
    return {
        **numbers,
        "wall": views.wall(tests if edited else bench.outcomes("tests"), bench.classes, session.thumbnails),
        "predictions": views.predictions(bench, session.painting),
        "tried": "" if draft is None else draft.tried,
        "commands": commands(bench.state, sources),
        "program": program(bench.state, sources),
        "heatmap": "<p>Choose this tab again to see where the rule fires now.</p>" if edited else "",
    }

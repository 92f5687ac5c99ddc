"""Notes with words: where they are, what differs from what, what is refused. How they look was looked at."""

import numpy as np
import pytest
from PIL import Image, features

from rulepatch.concepts import typographic
from rulepatch.concepts.typographic import note
from rulepatch.errors import ImageError, SettingError
from rulepatch.playground.scenes import render


def noise(width=96, height=80, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def differ(one, other):
    return (np.asarray(one) != np.asarray(other)).any(axis=2)


@pytest.mark.parametrize("seed", range(8))
def test_notes_change_nothing_outside_their_mask_and_twins_differ_only_inside(seed):
    picture = noise(seed=seed)
    made = note(picture, "iPod", seed=seed)
    assert made.mask.shape == (80, 96) and made.mask.dtype == np.float32
    assert made.mask.min() >= 0 and made.mask.max() == 1
    for twin in (made.written, made.blank):
        assert twin.size == picture.size and twin.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(twin)[made.mask == 0], np.asarray(picture)[made.mask == 0])
        assert differ(twin, picture)[made.mask == 1].mean() > 0.95
    written = differ(made.written, made.blank)
    assert (made.mask[written] == 1).all(), "ink lies on paper alone"
    assert 0.1 < written.sum() / made.mask.sum() < 0.6


@pytest.mark.parametrize("turn", [0, 7.5, -30, 45])
def test_the_mask_is_the_area_of_the_turned_sheet(turn):
    box = (11, 5, 85, 75)
    mask = note(noise(), "ox", box=box, turn=turn).mask
    inside = np.zeros_like(mask, bool)
    inside[box[1] : box[3], box[0] : box[2]] = True
    assert not mask[~inside].any()
    size, angle = np.array([74, 70]), np.radians(abs(turn))
    reach = np.array([[np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ size
    assert mask.sum() == pytest.approx(np.prod(size * min(size / reach)), rel=0.01)
    soft = ((mask > 0) & (mask < 1)).sum()
    assert soft == 0 if turn == 0 else soft > 50


def test_the_blank_note_is_paper_and_the_word_is_ink():
    made = note(noise(), "iPod", box=(16, 16, 80, 64), turn=0)
    blank, written = (np.asarray(twin, int)[18:62, 18:78] for twin in (made.blank, made.written))
    assert blank.min() > 200 and np.ptp(blank, axis=(0, 1)).max() < 20
    assert written.min() < 60
    ink = written.mean(axis=2) < 130
    columns, rows = np.flatnonzero(ink.any(axis=0)), np.flatnonzero(ink.any(axis=1))
    assert np.ptp(columns) > 0.6 * 60 and np.ptp(rows) > 12, "it fills the note"
    gaps = np.flatnonzero(np.diff(columns) > 1)
    assert len(gaps) == 3, "four letters apart from each other"


def test_a_word_on_the_smallest_useful_note_can_be_told_from_another():
    one, other, again = (note(noise(), word, box=(10, 10, 42, 42), turn=0) for word in ("iPod", "iPad", "iPod"))
    assert differ(one.written, other.written).sum() > 5
    assert not differ(one.written, again.written).any()
    assert not differ(one.blank, other.blank).any()


def test_seeds_say_where_notes_lie():
    places = {note(noise(), "iPod", seed=seed).mask.tobytes() for seed in range(5)}
    assert len(places) == 5
    first, again = (note(noise(), "iPod", seed=3) for _ in range(2))
    assert first.written.tobytes() == again.written.tobytes() and first.mask.tobytes() == again.mask.tobytes()
    wide = note(noise(200, 80), "iPod", seed=1)
    assert not wide.mask[:, :60].any() and not wide.mask[:, 140:].any(), "the middle is what preprocessing keeps"


def test_the_exemplar_maps_the_word_to_the_blank_note():
    made = note(Image.fromarray(render("van", seed=1).image), "iPod", share=0.5)
    exemplar = made.exemplar(label="van")
    assert (exemplar.concept, exemplar.replacement, exemplar.label) == ("blank note", "iPod", "van")
    assert exemplar.image is made.blank and exemplar.edited is made.written and exemplar.mask is made.mask


@pytest.mark.parametrize(
    ("word", "settings"),
    [
        ("", {}),
        ("  ", {}),
        ("i\nPod", {}),
        ("苹果", {}),
        ("iPod", {"box": (60, 10, 100, 40)}),
        ("iPod", {"box": (-1, 10, 40, 40)}),
        ("iPod", {"box": (40, 10, 40, 40)}),
        ("iPod", {"box": (10, 10, 20, 40)}),
        ("a very long sentence about nothing", {}),
        ("iPod", {"share": 0.05}),
        ("iPod", {"share": 1.5}),
        ("iPod", {"turn": 90}),
        ("iPod", {"seed": -1}),
    ],
)
def test_what_cannot_be_written_is_refused_in_a_sentence(word, settings):
    with pytest.raises(SettingError, match=r"^expected .* but .*; [^.]+$"):
        note(noise(), word, **settings)


def test_a_picture_in_grey_is_refused():
    with pytest.raises(ImageError, match="RGB"):
        note(noise().convert("L"), "iPod")


def test_a_pillow_that_cannot_write_says_so(monkeypatch):
    monkeypatch.setattr(features, "check", lambda feature: False)
    with pytest.raises(ImageError, match="FreeType"):
        note(noise(), "iPod")


def test_large_notes_are_drawn_less_finely(monkeypatch):
    fine = note(noise(), "iPod", box=(10, 10, 90, 70), seed=2)
    monkeypatch.setattr(typographic, "MOST_DRAWN", 80)
    coarse = note(noise(), "iPod", box=(10, 10, 90, 70), seed=2)
    assert abs(fine.mask - coarse.mask).mean() < 0.03 and coarse.mask.max() == 1

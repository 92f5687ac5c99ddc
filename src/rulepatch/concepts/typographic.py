"""Typographic attacks: a note with a word on it, pasted onto an image, and its blank twin (paper 3, figure 1).

A classifier that reads, such as CLIP, may name the word instead of the object that the note is stuck on. The edit that
mends it maps the note with the word to the blank note.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features

from rulepatch.core.exemplars import Exemplar
from rulepatch.errors import ImageError, SettingError

__all__ = ["Box", "Note", "note"]

Box = tuple[int, int, int, int]
"""Left, top, right and bottom edge in pixels; right and bottom lie just outside."""

SMALLEST_TEXT = 7
"""Height of a line in pixels, accents and descenders included, below which a word cannot be read."""

MOST_TURN = 5.0
"""Degrees by which a note is turned at most, if nobody says by how much."""

FILLED = (0.86, 0.7)
"""Share of the note's width and height that the word fills at most."""

ASPECT = 0.7
"""Height of a note over its width, if no box is given."""

MIDDLE = 7 / 8
"""Share of the image's middle square in which notes are placed: what preprocessing crops to."""

FINE = 4
"""Drawn pixels for each pixel of the image, in each direction."""

MOST_DRAWN = 4096
"""Side of the largest drawing in pixels; larger notes are drawn less finely."""


@dataclass(frozen=True, eq=False)
class Note:
    """An image with a note on it, once with a word and once blank.

    Attributes:
        word: what is written on the note.
        written: the image with the word on the note, RGB.
        blank: the same with nothing on it, RGB; it differs from `written` only inside the note.
        mask: the note's share of each pixel, array (h, w), float32, 0..1; both images are the original where it is 0.
    """

    word: str
    written: Image.Image
    blank: Image.Image
    mask: NDArray[np.float32] = field(repr=False)

    def exemplar(self, *, label: int | str | None = None) -> Exemplar:
        """The exemplar of the edit that takes a note with this word for a blank one.

        Args:
            label: what the image shows: a class index, class name or WordNet id.

        Returns:
            The exemplar; the original is the image with the blank note, as in the paper.
        """
        return Exemplar(
            self.blank,
            self.written,
            self.mask,
            label=label,
            concept="blank note",
            replacement=self.word,
            name=f"the note {self.word!r}",
        )


def note(
    image: Image.Image,
    word: str,
    *,
    box: Box | None = None,
    share: float = 0.4,
    turn: float | None = None,
    seed: int = 0,
) -> Note:
    """Paste a note with a word onto an image.

    Args:
        image: the image, RGB; it is not changed.
        word: what to write, in letters of the font that comes with Pillow (most of Latin).
        box: where the note lies; it fills it as far as its turn allows. Drawn in the middle of the image by the seed
            if None.
        share: the note's width over the image's shorter side, in 0..1, where no box is given.
        turn: degrees counter-clockwise, in −45..45; up to `MOST_TURN` either way by the seed if None.
        seed: of place, turn and shade, at least 0.

    Returns:
        The note; the same arguments give the same bytes.

    Raises:
        ImageError: the image is not in RGB, or Pillow comes without its font.
        SettingError: a word that cannot be written, a box that does not lie in the image, or a note that is too
            small to read.

    Examples:
        >>> found = note(Image.new("RGB", (96, 96), "teal"), "iPod", box=(16, 24, 80, 72))
        >>> exemplar = found.exemplar(label="teapot")
        >>> exemplar.concept, exemplar.replacement, float(found.mask[48, 48])
        ('blank note', 'iPod', 1.0)
    """
    if image.mode != "RGB":
        raise ImageError(f"expected an image in RGB but got one in {image.mode}; convert it")
    if seed < 0 or not 0 < share <= 1 or not -45 <= (turn or 0) <= 45:
        raise SettingError(
            f"expected a seed of at least 0, a share in 0..1 and a turn in -45..45 but got {seed}, {share} and {turn}; "
            "choose within"
        )
    _check_word(word)
    rng = np.random.default_rng(seed)
    drawn_box, drawn_turn = _any_box(image.size, share, rng), rng.uniform(-MOST_TURN, MOST_TURN)
    box = _checked(box, image.size) if box is not None else drawn_box
    covered, ink = _drawn(word, (box[2] - box[0], box[3] - box[1]), drawn_turn if turn is None else turn)
    sheet, pen = _sheet(covered, rng), rng.uniform(0.04, 0.14) * np.array([1, 1, 1.2])
    written = sheet + ink[..., None] * (pen - sheet)
    mask = np.zeros((image.height, image.width), np.float32)
    mask[box[1] : box[3], box[0] : box[2]] = covered
    return Note(word, _pasted(image, written, covered, box), _pasted(image, sheet, covered, box), mask)


def _check_word(word: str) -> None:
    if not word.strip() or not word.isprintable():
        raise SettingError(f"expected a word on one line but got {word!r}; write at least one letter")
    font = _font(32)
    unknown = bytes(font.getmask("\U0010ffff"))  # the box that stands for every letter a font lacks
    missing = [letter for letter in word if bytes(font.getmask(letter)) == unknown]
    if missing:
        raise SettingError(
            f"expected letters that Pillow's font can write but {word!r} has {''.join(missing)!r}; choose another word"
        )


def _font(size: float) -> ImageFont.FreeTypeFont:
    if not features.check("freetype2"):  # its other font is a bitmap of one size
        raise ImageError("expected a Pillow with FreeType to write with but it has none; install Pillow from its wheel")
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _checked(box: Box, size: tuple[int, int]) -> Box:
    """The box itself, if it lies in an image of (width, height)."""
    left, top, right, bottom = box
    if not (0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]):
        raise SettingError(
            f"expected a box (left, top, right, bottom) within the image's {size[0]}x{size[1]} pixels "
            f"but got {tuple(box)}; move it"
        )
    return box


def _any_box(size: tuple[int, int], share: float, rng: Generator) -> Box:
    """A box somewhere in the middle of an image of (width, height), of the share asked for as far as it fits there."""
    side = MIDDLE * min(size)
    width = max(1, round(min(share * min(size), side)))
    height = max(1, round(ASPECT * width))
    left, top = (
        round((whole - side) / 2 + place * (side - part))
        for whole, part, place in zip(size, (width, height), rng.uniform(size=2), strict=True)
    )
    return left, top, left + width, top + height


def _drawn(word: str, size: tuple[int, int], turn: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What a note covers of each pixel of its box of (width, height), and what ink covers of that, (h, w), 0..1."""
    fine = max(1, min(FINE, MOST_DRAWN // max(size)))
    room = fine * np.array(size)
    cosine, sine = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    spin = np.array([[cosine, sine], [-sine, cosine]])  # counter-clockwise where y points down
    width, height = room * min(room / (np.abs(spin) @ room))  # so that all of the turned note lies in the box
    # Pillow fills the pixels on a polygon's edge as well: half a pixel less on every side is the polygon itself.
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (np.array([width, height]) - 1) / 2
    middle = (room[0] / 2, room[1] / 2)
    sheet, ink = (Image.new("L", (room[0], room[1])) for _ in range(2))
    ImageDraw.Draw(sheet).polygon((corners @ spin.T + middle - 0.5).ravel().tolist(), fill=255)
    font = _fitting(word, (width * FILLED[0], height * FILLED[1]))
    if sum(font.getmetrics()) < SMALLEST_TEXT * fine:
        raise SettingError(
            f"expected a note on which {word!r} can be read but one of {size[0]}x{size[1]} pixels is too small for it; "
            "take a larger box or share, or a shorter word"
        )
    ImageDraw.Draw(ink).text(middle, word, fill=255, font=font, anchor="mm")
    drawings = sheet, ink.rotate(turn, Image.Resampling.BICUBIC)
    covered, inked = (np.asarray(drawing.reduce(fine), dtype=np.float64) / 255 for drawing in drawings)
    return covered, inked


def _fitting(word: str, room: tuple[float, float]) -> ImageFont.FreeTypeFont:
    """The font in the largest whole size at which a word fits a room of (width, height)."""
    left, top, right, bottom = _font(100).getbbox(word, anchor="mm")
    # The word is centred by its line, not by its own ink: what sticks out further decides.
    reach = 2 * max(-left, right) / 100, 2 * max(-top, bottom) / 100
    return _font(max(1, math.floor(min(room[0] / reach[0], room[1] / reach[1]))))


def _sheet(covered: NDArray[np.float64], rng: Generator) -> NDArray[np.float64]:
    """The blank paper in its box, (h, w, 3), 0..1: off-white, a little darker to one side and along its border."""
    white = rng.uniform(0.9, 0.97) * np.array([1, 0.995, rng.uniform(0.94, 0.98)])
    down, across = (np.linspace(-0.5, 0.5, side) for side in covered.shape)
    slope = rng.uniform(-0.05, 0.05, size=2)
    light = 1 + slope[0] * across + slope[1] * down[:, None]
    border = np.where(covered < 1, 0.82, 1)
    return np.asarray(white * (light * border)[..., None])


def _pasted(image: Image.Image, paper: NDArray[np.float64], covered: NDArray[np.float64], box: Box) -> Image.Image:
    """An image with paper (h, w, 3) in a box, as far as it covers each pixel."""
    under = np.asarray(image.crop(box), dtype=np.float64) / 255
    mixed = under + covered[..., None] * (paper - under)
    result = image.copy()
    result.paste(Image.fromarray((255 * mixed.clip(0, 1)).round().astype(np.uint8)), box[:2])
    return result

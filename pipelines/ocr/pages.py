"""Pages with known text: what the OCR pipeline is measured with and what the demo sends."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

WIDTH_PX, HEIGHT_PX = 640, 480
# Matplotlib's wheel carries these, so that a machine needs no fonts of its own.
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono", "DejaVuSans-Oblique")
MIN_LINES, MAX_LINES = 4, 8
# Ink from the tallest ascender to the lowest descender: a line's box has this height whatever its letters.
TALL_TEXT = "Ahgjpqy|"
JPEG_QUALITY = 88
MARGIN_PX = 16
WORDS = tuple((Path(__file__).parent / "words.txt").read_text(encoding="utf-8").split())


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text and its box (left, top, right, bottom) in pixels of the page."""

    text: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Page:
    """A page as JPEG, and what is written on it from top to bottom."""

    jpeg: bytes
    lines: tuple[Line, ...]


def make_page(seed: int) -> Page:
    """The page of that seed, always the same: 4 to 8 lines of mixed fonts and sizes, blurred and noisy."""
    rng = random.Random(f"page {seed}")
    paper = rng.randint(200, 250)
    image = Image.new("L", (WIDTH_PX, HEIGHT_PX), paper)
    draw = ImageDraw.Draw(image)
    count = rng.randint(MIN_LINES, MAX_LINES)
    slot_px = (HEIGHT_PX - 2 * MARGIN_PX) / count
    lines = tuple(
        _draw_line(draw, rng, paper, MARGIN_PX + slot_px * place, slot_px) for place in range(count)
    )
    blurred = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 1.0)))
    noise = np.random.default_rng(seed).normal(0.0, rng.uniform(2.0, 14.0), (HEIGHT_PX, WIDTH_PX))
    pixels = np.clip(np.asarray(blurred, dtype=np.float64) + noise, 0, 255).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
    return Page(buffer.getvalue(), lines)


def make_pages(seed: int, count: int) -> list[Page]:
    """A pool of pages; pools of different seeds below a thousand pages share none."""
    return [make_page(seed * 1000 + number) for number in range(count)]


def _draw_line(
    draw: ImageDraw.ImageDraw, rng: random.Random, paper: int, top_px: float, slot_px: float
) -> Line:
    font = _font(rng.choice(FONTS), rng.randint(9, 22))
    widest_px = WIDTH_PX - 2 * MARGIN_PX
    text = _text(rng)
    while draw.textlength(text, font=font) > widest_px:
        text = text.rsplit(" ", 1)[0]
    _, tall_top, _, tall_bottom = font.getbbox(TALL_TEXT)
    height_px = tall_bottom - tall_top
    left_px = MARGIN_PX + int(rng.random() * (widest_px - draw.textlength(text, font=font)))
    origin_px = int(top_px + rng.random() * max(0.0, slot_px - height_px - 6)) - int(tall_top) + 3
    draw.text((left_px, origin_px), text, fill=rng.randint(0, paper - 90), font=font)
    ink_left, _, ink_right, _ = draw.textbbox((left_px, origin_px), text, font=font)
    return Line(text, (ink_left, origin_px + tall_top, ink_right, origin_px + tall_bottom))


def _text(rng: random.Random) -> str:
    words = [rng.choice(WORDS) for _ in range(rng.randint(2, 4))]
    if rng.random() < 0.4:
        words[rng.randrange(len(words))] = f"{rng.randint(1, 999)}.{rng.randint(0, 99):02d}"
    if rng.random() < 0.3:
        words.append(f"{chr(rng.randint(65, 90))}{rng.randint(100, 9999)}")
    text = " ".join(words)
    return text[0].upper() + text[1:]


@cache
def _font(name: str, size_px: int) -> ImageFont.FreeTypeFont:
    spec = find_spec("matplotlib")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("pages are drawn with the fonts inside matplotlib: pip install matplotlib")
    folder = Path(spec.submodule_search_locations[0])
    return ImageFont.truetype(folder / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf", size_px)

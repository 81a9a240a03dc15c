"""Make `six_levels.png`: one click on a real image that scikit-image carries, and its six levels by `semantic-nano`.

python docs/six_levels.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from skimage.data import immunohistochemistry

from napari_segany import ImagePredictor, Points, Prompt, load_model
from napari_segany.core.granularity import distinct
from napari_segany.io.exports import draw_overlay

CLICK = (393, 69)
AROUND = 128  # pixels shown on each side of the click
SCALE, GAP, LINE = 2, 6, 18


def tile(picture: NDArray[np.uint8], title: str) -> Image.Image:
    """Return the part of an (H, W, 3) picture around the click, enlarged, with a line of text below."""
    row, col = (
        int(np.clip(at, AROUND, side - AROUND)) for at, side in zip(CLICK, picture.shape[:2], strict=True)
    )
    part = picture[row - AROUND : row + AROUND, col - AROUND : col + AROUND]
    large = Image.fromarray(part).resize(
        (2 * AROUND * SCALE // 2, 2 * AROUND * SCALE // 2), Image.Resampling.BICUBIC
    )
    whole = Image.new("RGB", (large.width, large.height + LINE), "white")
    whole.paste(large)
    ImageDraw.Draw(whole).text((2, large.height + 3), title, fill="black")
    return whole


def main() -> None:
    """Predict, draw, save."""
    image = immunohistochemistry()
    predictor = ImagePredictor(load_model("semantic-nano", precision="reproducible"))
    click = Points(np.array([CLICK], dtype=np.float32), np.array([True]))
    answer = predictor.predict(predictor.embed(image), Prompt(points=click))
    marked = image.copy()
    row, col = CLICK
    marked[row - 5 : row + 6, col] = marked[row, col - 5 : col + 6] = (255, 255, 0)
    tiles = [tile(marked, f"one click, {len(distinct(answer.masks))} different masks")]
    for index in np.argsort(answer.levels):
        mask = answer.masks[index].astype(np.uint32)
        name = f", {answer.names[index]}" if answer.names[index] else ""
        title = f"level {answer.levels[index]}{name}, score {answer.scores[index]:.2f}"
        tiles.append(tile(draw_overlay(image, mask), title))
    width, height = tiles[0].size
    columns = 4
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for place, each in enumerate(tiles):
        sheet.paste(each, ((place % columns) * (width + GAP), (place // columns) * (height + GAP)))
    sheet.save(Path(__file__).with_name("six_levels.png"))


if __name__ == "__main__":
    main()

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
AROUND = 64  # pixels on each side of the click: the model sees this part alone, and so larger
SCALE, GAP, LINE = 2, 6, 18


def tile(picture: NDArray[np.uint8], title: str) -> Image.Image:
    """Return an (H, W, 3) picture, enlarged, with a line of text below."""
    size = (picture.shape[1] * SCALE, picture.shape[0] * SCALE)
    large = Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)
    whole = Image.new("RGB", (large.width, large.height + LINE), "white")
    whole.paste(large)
    ImageDraw.Draw(whole).text((2, large.height + 3), title, fill="black")
    return whole


def main() -> None:
    """Predict, draw, save."""
    row, col = CLICK
    image = immunohistochemistry()[row - AROUND : row + AROUND, col - AROUND : col + AROUND].copy()
    row = col = AROUND
    predictor = ImagePredictor(load_model("semantic-nano", precision="reproducible"))
    click = Points(np.array([(row, col)], dtype=np.float32), np.array([True]))
    answer = predictor.predict(predictor.embed(image), Prompt(points=click))
    marked = image.copy()
    marked[row - 3 : row + 4, col] = marked[row, col - 3 : col + 4] = (255, 255, 0)
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

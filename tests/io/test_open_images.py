from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from skimage.io import imsave
from yaozarrs import DimSpec, v05
from yaozarrs.write.v05 import write_image

from napari_segany.core.axes import Calibration, plane_of
from napari_segany.core.errors import AxesError, FileFormatError
from napari_segany.core.frames import ImagePlanes, frame_stacks
from napari_segany.io.exports import write_tiff_labels
from napari_segany.io.images import open_image
from napari_segany.io.label_store import LabelStore
from napari_segany.io.ome_zarr import label_names, open_ome_zarr, read_labels
from napari_segany.io.opened import OpenedImage
from napari_segany.io.tiff import open_tiff

rng = np.random.default_rng(7)
MOVIE = rng.integers(0, 60000, (3, 2, 64, 80), dtype=np.uint16)  # T C Y X


def write_v04(path: Path, data: np.ndarray, *, metadata: dict[str, object] | None = None) -> None:
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    scales = ([5.0, 1.0, 0.5, 0.5], [5.0, 1.0, 1.0, 1.0])
    for level, array in enumerate((data, data[..., ::2, ::2])):
        group.create_array(
            str(level), data=array, chunks=(1, 1, 32, 32), chunk_key_encoding={"name": "v2", "separator": "/"}
        )
    steps = [[{"type": "scale", "scale": scale}] for scale in scales]
    group.attrs["multiscales"] = [
        {
            "version": "0.4",
            "axes": [
                {"name": "t", "type": "time", "unit": "second"},
                {"name": "c", "type": "channel"},
                {"name": "y", "type": "space", "unit": "micrometer"},
                {"name": "x", "type": "space", "unit": "micrometer"},
            ],
            "datasets": [
                {"path": str(i), "coordinateTransformations": transforms}
                for i, transforms in enumerate(steps)
            ],
        }
    ]
    group.attrs.update(metadata or {})


class TestOmeZarr:
    def test_version_04(self, tmp_path: Path) -> None:
        channels = [{"label": "DAPI", "color": "0000FF"}, {"label": "actin", "color": "00FF00"}]
        write_v04(tmp_path / "a.zarr", MOVIE, metadata={"omero": {"channels": channels}})
        opened = open_image(tmp_path / "a.zarr")
        assert opened.axes == "TCYX" and opened.channels == ("DAPI", "actin") and len(opened.levels) == 2
        assert opened.calibration.scale == (5, 0.5, 0.5) and opened.calibration.interval_s == 5
        assert opened.label_shape == (3, 64, 80)
        assert np.array_equal(plane_of(opened.data, opened.axes, index=(2,), channel=1), MOVIE[2, 1])

    def test_version_05(self, tmp_path: Path) -> None:
        dims = [
            DimSpec(name="t", size=3, scale=2, unit="minute"),
            DimSpec(name="c", size=2),
            DimSpec(name="y", size=64, scale=0.5, unit="nanometer", translation=4),
            DimSpec(name="x", size=80, scale=0.25, unit="nanometer"),
        ]
        image = v05.Image(multiscales=[v05.Multiscale.from_dims(dims)])
        write_image(tmp_path / "a.ome.zarr", image, MOVIE)
        opened = open_image(tmp_path / "a.ome.zarr")
        units = ("minute", "nanometer", "nanometer")
        assert opened.calibration == Calibration("TYX", (2, 0.5, 0.25), (0, 4, 0), units)
        assert opened.channels == () and np.array_equal(np.asarray(opened.data), MOVIE)

    def test_a_transformation_of_the_whole_comes_last(self, tmp_path: Path) -> None:
        image = {
            "version": "0.5",
            "multiscales": [
                {
                    "axes": [{"name": name, "type": "space"} for name in "yx"],
                    "datasets": [
                        {
                            "path": "0",
                            "coordinateTransformations": [
                                {"type": "scale", "scale": [2, 3]},
                                {"type": "translation", "translation": [1, 1]},
                            ],
                        }
                    ],
                    "coordinateTransformations": [
                        {"type": "scale", "scale": [10, 10]},
                        {"type": "translation", "translation": [5, 0]},
                    ],
                }
            ],
        }
        group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=3, attributes={"ome": image})
        group.create_array("0", data=MOVIE[0, 0])
        assert open_image(tmp_path / "a.zarr").calibration == Calibration("YX", (20, 30), (15, 10))

    @pytest.mark.parametrize(
        ("ome", "message"),
        [
            ({"plate": {}}, "a plate; open one field, such as .*/A/1/0"),
            ({"well": {}}, "a well"),
            ({"bioformats2raw.layout": 3}, "series of images"),
            ({"labels": ["cells"]}, "open one of them, such as .*/cells"),
            ({}, "no multiscales"),
            ({"multiscales": []}, "damaged"),
            ({"multiscales": [{"axes": [], "datasets": []}]}, "damaged"),
        ],
    )
    def test_what_is_not_one_image(self, tmp_path: Path, ome: dict[str, object], message: str) -> None:
        zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=3, attributes={"ome": ome})
        with pytest.raises(FileFormatError, match=message):
            open_image(tmp_path / "a.zarr")

    def test_foreign_and_damaged_groups(self, tmp_path: Path) -> None:
        zarr.open_group(str(tmp_path / "plain.zarr"), mode="w", zarr_format=3)
        with pytest.raises(FileFormatError, match="without OME metadata"):
            open_image(tmp_path / "plain.zarr")
        write_v04(tmp_path / "old.zarr", MOVIE)
        (tmp_path / "old.zarr" / ".zattrs").write_text('{"multisc')
        with pytest.raises(FileFormatError, match="zattrs is damaged"):
            open_image(tmp_path / "old.zarr")
        with pytest.raises(FileFormatError, match="not OME-Zarr; accepted"):
            open_image(tmp_path)

    def test_a_level_that_is_missing_or_of_another_shape(self, tmp_path: Path) -> None:
        write_v04(tmp_path / "a.zarr", MOVIE)
        (tmp_path / "a.zarr" / "1").rename(tmp_path / "gone")
        with pytest.raises(FileFormatError, match="incomplete"):
            open_image(tmp_path / "a.zarr")
        zarr.open_group(str(tmp_path / "a.zarr"), mode="r+").create_array("1", data=MOVIE[0, 0])
        with pytest.raises(FileFormatError, match=r"2 sides, but .* 'TCYX'"):
            open_image(tmp_path / "a.zarr")

    def test_labels(self, tmp_path: Path) -> None:
        write_v04(tmp_path / "image.zarr", MOVIE)
        with pytest.raises(FileFormatError, match="carries no labels"):
            read_labels(tmp_path / "image.zarr")
        assert label_names(tmp_path / "image.zarr") == []
        path = tmp_path / "cells.zarr"
        LabelStore.create(path, shape=(64, 80), calibration=Calibration("YX")).close()
        read_labels(path, writable=True).data[3, 4] = 9  # type: ignore[index]
        assert np.asarray(read_labels(path).data)[3, 4] == 9
        with pytest.raises(ValueError, match="read-only"):
            open_ome_zarr(path).data[3, 4] = 9  # type: ignore[index]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("tiffs")
    grey = {"photometric": "minisblack"}
    tifffile.imwrite(folder / "o.ome.tif", MOVIE, metadata={"axes": "TCYX"}, **grey)
    tifffile.imwrite(
        folder / "z.ome.tif", MOVIE, metadata={"axes": "TCYX"}, compression="zlib", tile=(32, 32)
    )
    tifffile.imwrite(folder / "i.tif", MOVIE[:, 0], imagej=True, metadata={"axes": "ZYX"})
    tifffile.imwrite(folder / "p.tif", MOVIE[:, 0], compression="zlib", **grey)
    return sorted(folder.iterdir())


class TestTiff:
    def test_ome(self, tmp_path: Path) -> None:
        file = tmp_path / "a.ome.tif"
        metadata = {
            "axes": "TCYX",
            "PhysicalSizeX": 250,
            "PhysicalSizeXUnit": "nm",
            "PhysicalSizeY": 0.5,
            "TimeIncrement": 2,
            "TimeIncrementUnit": "min",
            "Channel": {"Name": ["DAPI", "actin"]},
        }
        tifffile.imwrite(file, MOVIE, metadata=metadata, photometric="minisblack")
        opened = open_image(file)
        assert isinstance(opened.data, np.memmap)
        assert opened.axes == "TCYX" and opened.channels == ("DAPI", "actin")
        assert opened.calibration == Calibration("TYX", (2, 0.5, 250), (), ("min", "um", "nm"))
        assert opened.calibration.spacing_um == (0.5, 0.25)
        (stack,) = frame_stacks(ImagePlanes(opened.data, opened.axes, channels=(1,)))
        assert np.array_equal(stack[2], MOVIE[2, 1])

    def test_compressed_pyramids_are_read_in_parts(self, tmp_path: Path) -> None:
        file = tmp_path / "a.ome.tif"
        plane = MOVIE[0, 0]
        with tifffile.TiffWriter(file) as tif:
            options = {"tile": (32, 32), "compression": "zlib"}
            tif.write(plane, subifds=1, metadata={"axes": "YX"}, **options)
            tif.write(plane[::2, ::2], subfiletype=1, **options)
        opened = open_image(file)
        assert [level.shape for level in opened.levels] == [(64, 80), (32, 40)]
        assert isinstance(opened.data, zarr.Array)
        assert np.array_equal(opened.data[5:9, 3:4], plane[5:9, 3:4])

    def test_imagej(self, tmp_path: Path) -> None:
        file = tmp_path / "a.tif"
        metadata = {"axes": "TZYX", "spacing": 1.5, "unit": "um", "finterval": 3.0}
        tifffile.imwrite(file, MOVIE, imagej=True, resolution=(4, 2), metadata=metadata)
        opened = open_image(file)
        assert opened.axes == "TZYX" and np.array_equal(np.asarray(opened.data), MOVIE)
        assert opened.calibration == Calibration("TZYX", (3, 1.5, 0.5, 0.25), (), ("s", "um", "um", "um"))

    def test_plain(self, tmp_path: Path) -> None:
        file = tmp_path / "a.tif"
        tifffile.imwrite(
            file, MOVIE[:, 0], photometric="minisblack", resolution=(300, 300), resolutionunit="INCH"
        )
        opened = open_image(file)
        assert opened.axes == "ZYX" and opened.calibration == Calibration("ZYX")  # inches are for printers
        assert open_image(file, axes="tyx").axes == "TYX"
        with pytest.raises(AxesError, match="3 letters"):
            open_image(file, axes="YX")
        tifffile.imwrite(file, MOVIE[0, 0], resolution=(1e4, 5e3), resolutionunit="CENTIMETER")
        assert open_image(file).calibration.spacing_um == pytest.approx((2, 1))

    def test_other_letters_keep_the_sizes(self, tmp_path: Path) -> None:
        file = tmp_path / "a.tif"
        tifffile.imwrite(
            file, MOVIE[:, 0], imagej=True, resolution=(2, 2), metadata={"axes": "ZYX", "unit": "um"}
        )
        opened = open_image(file, axes="TYX")
        assert opened.calibration == Calibration("TYX", (1, 0.5, 0.5), (), ("pixel", "um", "um"))

    def test_colours(self, tmp_path: Path) -> None:
        file = tmp_path / "a.tif"
        tifffile.imwrite(file, np.zeros((20, 30, 3), np.uint8), photometric="rgb")
        opened = open_image(file)
        assert opened.axes == "YXS" and opened.label_shape == (20, 30)

    @pytest.mark.parametrize(
        "content", [b"", b"II*\0", b"II*\0garbage and more", b"MM\0*" + b"\0" * 40, b"<html>"]
    )
    def test_no_tiff(self, tmp_path: Path, content: bytes) -> None:
        file = tmp_path / "bad.tif"
        file.write_bytes(content)
        with pytest.raises(FileFormatError, match=r"bad\.tif"):
            open_image(file)

    @settings(max_examples=40, deadline=None)
    @example(which=0, share=0.9998999)
    @given(which=st.integers(0, 3), share=st.floats(0, 0.9999))
    def test_what_was_cut_off_is_never_taken_for_whole(
        self, files: list[Path], which: int, share: float
    ) -> None:
        whole = files[which].read_bytes()
        cut = files[which].with_name(f"cut-{files[which].name}")
        cut.write_bytes(whole[: int(share * len(whole))])
        try:
            opened = np.asarray(open_tiff(cut).data)
        except FileFormatError as error:
            assert "cut-" in str(error)
        else:  # a few bytes behind the last pixel
            np.testing.assert_array_equal(opened, open_tiff(files[which]).data)
        finally:
            cut.unlink()

    def test_damage_is_seen_where_tifffile_is_silenced(
        self, files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        logger = logging.getLogger("tifffile")
        caplog.set_level(logging.CRITICAL, logger=logger.name)
        caplog.handler.setLevel(logging.NOTSET)  # sees all that the logger passes on
        whole = next(file for file in files if file.name == "i.tif").read_bytes()
        (tmp_path / "cut.tif").write_bytes(whole[:-400])  # into the second of its three pages
        with pytest.raises(FileFormatError, match="cut"):
            open_tiff(tmp_path / "cut.tif")
        assert not caplog.records
        assert (logger.level, logger.propagate) == (logging.CRITICAL, True)

    @settings(max_examples=40, deadline=None)
    @given(which=st.integers(0, 3), where=st.integers(0, 600), value=st.integers(0, 255))
    def test_damaged_headers_raise_nothing_else(
        self, files: list[Path], which: int, where: int, value: int
    ) -> None:
        content = bytearray(files[which].read_bytes())
        content[where] = value
        bad = files[which].with_name(f"bad-{files[which].name}")
        bad.write_bytes(content)
        try:
            assert min(open_tiff(bad).shape) > 0
        except (FileFormatError, AxesError) as error:
            assert str(error)
        finally:
            bad.unlink()

    def test_labels_come_back(self, tmp_path: Path) -> None:
        labels = rng.integers(0, 2**32, (3, 20, 30), dtype=np.uint32)
        calibration = Calibration("TYX", (2, 0.5, 250), (), ("min", "um", "nm"))
        file = write_tiff_labels(tmp_path / "labels.ome.tif", labels, calibration=calibration)
        opened = open_image(file)
        assert opened.calibration == calibration and opened.dtype == np.uint32
        assert np.array_equal(np.asarray(opened.data), labels)
        assert [left.name for left in tmp_path.iterdir()] == ["labels.ome.tif"]


class TestPictures:
    @pytest.mark.parametrize(
        ("pixels", "axes"), [((20, 30), "YX"), ((20, 30, 3), "YXC"), ((20, 30, 4), "YXC")]
    )
    def test_png(self, tmp_path: Path, pixels: tuple[int, ...], axes: str) -> None:
        picture = rng.integers(0, 255, pixels, dtype=np.uint8)
        imsave(tmp_path / "a.png", picture, check_contrast=False)
        opened = open_image(tmp_path / "a.png")
        assert opened.axes == axes and opened.label_shape == (20, 30)
        assert np.array_equal(np.asarray(opened.data), picture[..., :3] if len(pixels) == 3 else picture)

    @pytest.mark.parametrize("name", ["a.png", "a.jpg"])
    @pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"text"])
    def test_no_picture(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileFormatError, match="as a picture"):
            open_image(tmp_path / name)


class TestDispatch:
    def test_unknown_and_missing(self, tmp_path: Path) -> None:
        with pytest.raises(FileFormatError, match="there is no file"):
            open_image(tmp_path / "a.tif")
        (tmp_path / "a.czi").write_bytes(b"ZISRAWFILE")
        with pytest.raises(
            FileFormatError, match=r"a\.czi is of a kind that is not read; accepted: OME-Zarr"
        ):
            open_image(tmp_path / "a.czi")

    def test_nothing_to_see(self, tmp_path: Path) -> None:
        with pytest.raises(FileFormatError, match="no pixels"):
            OpenedImage(tmp_path, [np.zeros((0, 4))], "YX", Calibration("YX"))

    def test_readers_load_no_torch(self) -> None:
        names = ["images", "ome_zarr", "tiff", "prompts", "state", "exports", "label_store"]
        code = ";".join(["import sys", *(f"import napari_segany.io.{name}" for name in names)])
        code += ";print([name for name in ('torch', 'napari', 'qtpy', 'skimage.io') if name in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout.replace("'", '"')) == []

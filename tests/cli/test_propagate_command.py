"""`segany propagate` on files, with a predictor that follows blobs by their raw value."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from blob_follower import BlobFollower, blob_movie
from yaozarrs import v05

from napari_segany.cli import main, stack_task
from napari_segany.core.axes import Calibration
from napari_segany.core.errors import CapabilityError, OutOfMemoryError
from napari_segany.core.types import VideoPredictorLike
from napari_segany.io.label_store import LabelStore
from napari_segany.io.ngff import multiscale_of

N = 8
CLICKS = [(0, 8, 5, 1), (3, 28, 33, 2)]  # frame, row, col, object: the one that moves, the one that stays


@pytest.fixture
def follower(monkeypatch: pytest.MonkeyPatch) -> BlobFollower:
    made = BlobFollower()
    monkeypatch.setattr(stack_task, "_predictor", lambda _: made)
    return made


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    return write(tmp_path / "movie.ome.tif", blob_movie(N), "TYX")


@pytest.fixture
def clicks(tmp_path: Path) -> Path:
    return write_clicks(tmp_path / "clicks.csv", CLICKS)


def write(path: Path, data: np.ndarray, axes: str) -> Path:
    tifffile.imwrite(path, data, ome=True, metadata={"axes": axes})
    return path


def write_zarr(path: Path, data: np.ndarray, axes: str) -> Path:
    """Write an OME-Zarr image, which keeps sides of one."""
    group = zarr.open_group(str(path), mode="w")
    group.create_array("0", data=data)
    multiscale = multiscale_of(Calibration(axes), name="image", levels=1)
    group.attrs["ome"] = v05.Image(multiscales=[multiscale]).model_dump(mode="json", exclude_none=True)
    return path


def write_clicks(path: Path, rows: list[tuple[int, ...]]) -> Path:
    names = [f"axis-{i}" for i in range(len(rows[0]) - 1)]
    lines = [",".join(["index", *names, "object_id", "positive"])]
    lines += [",".join(map(str, (i, *row, 1))) for i, row in enumerate(rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def labels_of(path: Path) -> np.ndarray:
    with LabelStore.open(path, read_only=True) as store:
        return np.asarray(store.array[:])


def truth(movie: np.ndarray) -> np.ndarray:
    return np.searchsorted([1000, 2000], movie, side="right").astype(np.uint32)


def words(movie: Path, clicks: Path, out: Path, *more: str) -> list[str]:
    return ["propagate", str(movie), "--prompts", str(clicks), "--out", str(out), *more]


class TestFollowing:
    def test_every_object_through_all_frames(
        self,
        follower: BlobFollower,
        movie: Path,
        clicks: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        out = tmp_path / "cells.ome.zarr"
        assert main(words(movie, clicks, out)) == 0
        np.testing.assert_array_equal(labels_of(out), truth(blob_movie(N)))
        assert len(set(follower.windows)) == 1 and follower.windows[0] is not None
        said = capsys.readouterr()
        assert "object 1: on 8 frames, 0 to 7, 64 pixels, score 0.90" in said.out
        assert f"labels: {out}" in said.out
        assert "frames/s" in said.err and "0:00 left" in said.err and "error" not in said.err

    def test_labels_say_where_they_come_from(
        self, follower: BlobFollower, movie: Path, clicks: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "cells.ome.zarr"
        assert main(words(movie, clicks, out)) == 0
        with LabelStore.open(out, read_only=True) as store:
            assert store.provenance["source"]["path"] == str(movie)
            assert store.provenance["source"]["shape"] == [N, 40, 60]
            assert store.calibration.axes == "TYX"
            assert {commit.index[0] for commit in store.records() if commit.index} == set(range(N))
            assert "blobs" in json.dumps([commit.note for commit in store.records()], default=str)

    def test_each_frame_is_worked_out_once(
        self, follower: BlobFollower, movie: Path, clicks: Path, tmp_path: Path
    ) -> None:
        assert main(words(movie, clicks, tmp_path / "a.ome.zarr")) == 0
        told = {(1, 0), (2, 3)}
        assert sorted(follower.worked) == sorted({(i, t) for i in (1, 2) for t in range(N)} - told)

    @pytest.mark.parametrize(
        ("more", "frames"),
        [
            (["--range", "2:6"], range(2, 6)),
            (["--range", "6:"], range(4, N)),  # no gap: 5 lies between it and the prompt
            (["--range", ":2"], range(5)),
            (["--direction", "forward"], range(4, N)),
            (["--direction", "backward"], range(5)),
            (["--range", ":7", "--direction", "forward"], range(4, 7)),
        ],
    )
    def test_a_part(
        self, follower: BlobFollower, movie: Path, tmp_path: Path, more: list[str], frames: range
    ) -> None:
        out, clicks = tmp_path / "cells.ome.zarr", write_clicks(tmp_path / "c.csv", [(4, 8, 12, 1)])
        assert main(words(movie, clicks, out, *more)) == 0
        painted = labels_of(out).any(axis=(1, 2))
        assert set(np.flatnonzero(painted)) - {4} == set(frames) - {4}

    def test_labels_of_one_plane_are_prompts(
        self, follower: BlobFollower, movie: Path, tmp_path: Path
    ) -> None:
        plane = truth(blob_movie(N))[5] * 10
        file = tmp_path / "plane.tif"
        tifffile.imwrite(file, plane.astype(np.uint16))
        out = tmp_path / "cells.ome.zarr"
        assert main(words(movie, file, out)) == 2
        assert not out.exists()
        assert main(words(movie, file, out, "--frame", "5")) == 0
        np.testing.assert_array_equal(labels_of(out), truth(blob_movie(N)) * 10)

    def test_an_object_that_is_nowhere_is_told(
        self, follower: BlobFollower, movie: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        edge = tmp_path / "edge.csv"  # half blob, half background: no pixel has the value between
        corners = [(5, 10), (5, 18), (13, 18), (13, 10)]
        rows = [f"0,rectangle,{i},2,{row - 0.5},{col - 0.5}" for i, (row, col) in enumerate(corners)]
        edge.write_text("\n".join(["index,shape-type,vertex-index,axis-0,axis-1,axis-2", *rows]) + "\n")
        assert main(words(movie, edge, tmp_path / "a.ome.zarr")) == 1
        assert "warning: object 1 was found on no frame" in capsys.readouterr().err


class TestAxes:
    def _four(self) -> np.ndarray:
        return np.stack([blob_movie(5), np.zeros((5, 40, 60), np.uint16), blob_movie(5)[::-1]], axis=1)

    def test_every_depth_is_followed_through_time(
        self, follower: BlobFollower, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data, out = self._four(), tmp_path / "a.ome.zarr"
        path = write(tmp_path / "a.ome.tif", data, "TZYX")
        clicks = write_clicks(tmp_path / "c.csv", [(0, 0, 8, 5, 1), (4, 2, 8, 5, 1), (4, 2, 28, 33, 2)])
        assert main(words(path, clicks, out, "--axis", "t")) == 0
        wanted = truth(data)
        wanted[:, 0][wanted[:, 0] == 2] = 0  # nobody asked for it there
        np.testing.assert_array_equal(labels_of(out), wanted)
        said = capsys.readouterr()
        assert "Z=0: object 1" in said.out and "Z=2: object 2" in said.out
        assert "1 stacks without prompts" in said.out and "stack 2 of 2" in said.err
        assert len(set(follower.windows)) == 1
        assert follower.over_time == [True, True]

    def test_depth_is_the_frame_axis(self, follower: BlobFollower, tmp_path: Path) -> None:
        data, out = self._four().transpose(1, 0, 2, 3), tmp_path / "a.ome.zarr"
        path = write(tmp_path / "a.ome.tif", data, "TZYX")
        clicks = write_clicks(tmp_path / "c.csv", [(4, 28, 33, 2)])  # the frame alone: for every stack
        assert main(words(path, clicks, out, "--axis", "z", "--fixed", "t=2")) == 0
        labels = labels_of(out)
        np.testing.assert_array_equal(labels[2] == 2, data[2] == 2000)
        assert not labels[:2].any()
        assert follower.over_time == [False]

    def test_a_file_that_names_no_axes(self, follower: BlobFollower, clicks: Path, tmp_path: Path) -> None:
        path, out = tmp_path / "plain.tif", tmp_path / "a.ome.zarr"
        tifffile.imwrite(path, blob_movie(N), photometric="minisblack")
        assert main(words(path, clicks, out, "--axis", "t")) == 2
        assert main(words(path, clicks, out, "--axis", "t", "--axes", "TYX")) == 0
        with LabelStore.open(out, read_only=True) as store:
            assert store.calibration.axes == "TYX"

    def test_channels(self, follower: BlobFollower, clicks: Path, tmp_path: Path) -> None:
        movie = blob_movie(N)
        path = write(tmp_path / "a.ome.tif", np.stack([movie + 7, movie, movie * 2, movie], axis=1), "TCYX")
        one, three = tmp_path / "one.ome.zarr", tmp_path / "three.ome.zarr"
        assert main(words(path, clicks, tmp_path / "all.ome.zarr")) == 2
        assert main(words(path, clicks, one, "--channel", "1")) == 0
        np.testing.assert_array_equal(labels_of(one), truth(movie))
        main(words(path, clicks, three, "--channel", "0", "--channel", "1", "--channel", "2"))
        assert follower.shapes[0] == (40, 60) and follower.shapes[-1] == (40, 60, 3)


class TestGoingOn:
    def _interrupt(self, follower: BlobFollower, at: int, *, times: int = 1) -> None:
        def before(frame: int) -> None:
            if frame == at:
                for _ in range(times):
                    os.kill(os.getpid(), signal.SIGINT)

        follower.before = before

    @pytest.mark.parametrize("at", [1, 4, 7])
    def test_ctrl_c_stops_after_the_frame_in_work(
        self,
        follower: BlobFollower,
        movie: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        at: int,
    ) -> None:
        clicks = write_clicks(tmp_path / "clicks.csv", CLICKS)
        out, handler = tmp_path / "a.ome.zarr", signal.getsignal(signal.SIGINT)
        self._interrupt(follower, at)
        assert main(words(movie, clicks, out)) == 130
        assert signal.getsignal(signal.SIGINT) is handler
        said = capsys.readouterr()
        assert "stopping after this frame" in said.err and "with --resume goes on from here" in said.err
        half, whole = labels_of(out), truth(blob_movie(N))
        np.testing.assert_array_equal(half[: at + 1] == 1, whole[: at + 1] == 1)  # this one was in work
        assert not (half[at + 1 :] == 1).any()
        follower.before, done = lambda frame: None, set(follower.worked)
        follower.worked.clear()
        assert main(words(movie, clicks, out, "--resume")) == 0
        np.testing.assert_array_equal(labels_of(out), whole)
        assert done <= set(follower.recalled) and not done & set(follower.worked)
        assert "8/8 frames" not in capsys.readouterr().err  # what is there is not counted

    def test_ctrl_c_twice_stops_at_once(
        self,
        follower: BlobFollower,
        movie: Path,
        clicks: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        out, handler = tmp_path / "a.ome.zarr", signal.getsignal(signal.SIGINT)
        self._interrupt(follower, 4, times=2)
        assert main(words(movie, clicks, out, "--overwrite")) == 130
        assert signal.getsignal(signal.SIGINT) is handler
        assert "with --resume instead of --overwrite" in capsys.readouterr().err
        assert not labels_of(out)[4:].any()
        follower.before = lambda frame: None
        assert main(words(movie, clicks, out, "--resume")) == 0
        np.testing.assert_array_equal(labels_of(out), truth(blob_movie(N)))

    def test_a_killed_process(
        self, follower: BlobFollower, movie: Path, clicks: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "a.ome.zarr"
        code = (
            "import os, signal, sys\n"
            f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
            "from blob_follower import BlobFollower\n"
            "from napari_segany.cli import main, stack_task\n"
            "kill = lambda frame: os.kill(os.getpid(), signal.SIGKILL) if frame == 5 else None\n"
            "stack_task._predictor = lambda task: BlobFollower(before=kill)\n"
            f"main({words(movie, clicks, out)!r})\n"
        )
        ended = subprocess.run([sys.executable, "-c", code], timeout=120, check=False, capture_output=True)
        assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
        half, whole = labels_of(out), truth(blob_movie(N))
        np.testing.assert_array_equal(half[:5] == 1, whole[:5] == 1)  # whole frames
        assert not half[5:].any()
        assert main(words(movie, clicks, out, "--resume")) == 0
        np.testing.assert_array_equal(labels_of(out), whole)
        assert {(1, 2), (1, 4), (2, 4)} <= set(follower.recalled)
        assert not set(follower.recalled) & set(follower.worked) and (1, 5) in follower.worked

    def test_nothing_is_left_to_do(
        self, follower: BlobFollower, movie: Path, clicks: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "a.ome.zarr"
        assert main(words(movie, clicks, out, "--resume")) == 0  # there is nothing yet: it begins
        follower.worked.clear()
        assert main(words(movie, clicks, out, "--resume")) == 0
        assert follower.worked == []
        np.testing.assert_array_equal(labels_of(out), truth(blob_movie(N)))

    def test_another_object_later(self, follower: BlobFollower, movie: Path, tmp_path: Path) -> None:
        out, file = tmp_path / "a.ome.zarr", tmp_path / "c.csv"
        assert main(words(movie, write_clicks(file, CLICKS[:1]), out)) == 0
        assert set(np.unique(labels_of(out))) == {0, 1}
        assert main(words(movie, write_clicks(file, CLICKS), out, "--resume")) == 0
        np.testing.assert_array_equal(labels_of(out), truth(blob_movie(N)))

    def test_each_stack_of_a_file_goes_on(self, follower: BlobFollower, tmp_path: Path) -> None:
        data = np.stack([blob_movie(N), blob_movie(N)[::-1]])
        path, out = write(tmp_path / "a.ome.tif", data, "TZYX"), tmp_path / "a.ome.zarr"
        clicks = write_clicks(tmp_path / "c.csv", [(0, 0, 8, 5, 1), (0, 0, 28, 33, 2), (1, 7, 8, 5, 1)])
        self._interrupt(follower, 6)
        command = words(path, clicks, out, "--axis", "z")
        assert main(command) == 130
        assert not labels_of(out)[1].any()
        follower.before = lambda frame: None
        assert main([*command, "--resume"]) == 0
        wanted = truth(data)
        wanted[1][wanted[1] == 2] = 0
        np.testing.assert_array_equal(labels_of(out), wanted)

    def test_labels_that_are_there_are_safe(
        self,
        follower: BlobFollower,
        movie: Path,
        clicks: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        out = tmp_path / "a.ome.zarr"
        assert main(words(movie, clicks, out)) == 0
        capsys.readouterr()
        assert main(words(movie, clicks, out)) == 2
        assert "--resume goes on with them, --overwrite replaces them" in capsys.readouterr().err
        assert main(words(movie, clicks, out, "--resume", "--overwrite")) == 2
        other = write(tmp_path / "other.ome.tif", blob_movie(N + 1), "TYX")
        assert main(words(other, clicks, out, "--resume")) == 2
        assert "go on with the same stack" in capsys.readouterr().err
        np.testing.assert_array_equal(labels_of(out), truth(blob_movie(N)))
        follower.worked.clear()
        assert main(words(movie, clicks, out, "--overwrite")) == 0
        assert {frame for _, frame in follower.worked} == set(range(N))


@pytest.mark.usefixtures("follower")
class TestWhatCannotBeUsed:
    @pytest.mark.parametrize(
        "case",
        [
            ("YX", (40, 60), [], "one plane only"),
            ("TYX", (1, 40, 60), [], "use segany segment"),
            ("TZYX", (1, 8, 40, 60), ["--axis", "t"], "choose with --axis"),
            ("TYX", (8, 40, 60), ["--axis", "z"], "without 'Z'"),
            ("TYX", (8, 40, 60), ["--fixed", "t=3"], "frame axis"),
            ("TYX", (8, 40, 60), ["--fixed", "3"], "T=0,Z=12"),
            ("TZYX", (8, 2, 40, 60), ["--fixed", "z=2"], "index 2 on axis 'Z'"),
            ("TYX", (8, 40, 60), ["--range", "8:"], "--range starts at frame 8"),
            ("TYX", (8, 40, 60), ["--range", "x"], "first:end"),
            ("TYX", (8, 40, 60), ["--axes", "TZYX"], "4"),
            ("TYX", (8, 40, 60), ["--window", "5,1"], "window"),
            ("TYX", (3, 40, 60), [], "outside the planes"),
            ("TYX", (8, 20, 20), [], "outside the image of 20 x 20"),
        ],
    )
    def test_before_anything_is_made(
        self,
        clicks: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        case: tuple[str, tuple[int, ...], list[str], str],
    ) -> None:
        axes, shape, more, message = case
        path = write_zarr(tmp_path / "a.ome.zarr", np.ones(shape, np.uint8), axes)
        out = tmp_path / "out.ome.zarr"
        assert main(words(path, clicks, out, *more)) == 2
        said = capsys.readouterr().err
        assert message in said and said.startswith("error: ") and said.count("\n") == 1
        assert not out.exists()

    def test_values_that_are_none(
        self, follower: BlobFollower, clicks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = write(tmp_path / "a.ome.tif", np.full((8, 40, 60), np.nan, np.float32), "TYX")
        assert main(words(path, clicks, tmp_path / "out.ome.zarr")) == 2
        assert "holds no finite value on any of its 8 planes" in capsys.readouterr().err

    def test_a_file_that_was_cut_off(
        self, follower: BlobFollower, movie: Path, clicks: Path, tmp_path: Path
    ) -> None:
        movie.write_bytes(movie.read_bytes()[:9000])
        assert main(words(movie, clicks, tmp_path / "out.ome.zarr")) == 2
        assert not (tmp_path / "out.ome.zarr").exists()

    def test_a_damaged_frame_keeps_those_before_it(
        self, follower: BlobFollower, clicks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, out = tmp_path / "a.ome.tif", tmp_path / "out.ome.zarr"
        tifffile.imwrite(path, blob_movie(30), ome=True, metadata={"axes": "TYX"}, compression="zlib")
        with tifffile.TiffFile(path) as tif:
            offset = tif.pages[8].dataoffsets[0]  # none of the 16 that the window is sampled from
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(b"\0" * 32)
        assert main(words(path, clicks, out)) == 2
        assert "cannot read the plane T=8" in capsys.readouterr().err
        np.testing.assert_array_equal(labels_of(out)[:8] == 1, truth(blob_movie(30))[:8] == 1)

    def test_a_model_that_cannot_follow(
        self, monkeypatch: pytest.MonkeyPatch, movie: Path, clicks: Path, tmp_path: Path
    ) -> None:
        def refuse(_: stack_task.StackTask) -> VideoPredictorLike:
            raise CapabilityError("sam_vit_b does not follow objects")

        monkeypatch.setattr(stack_task, "_predictor", refuse)
        assert main(words(movie, clicks, tmp_path / "out.ome.zarr")) == 2
        assert not (tmp_path / "out.ome.zarr").exists()

    def test_a_prediction_that_fails_is_one_line(
        self,
        follower: BlobFollower,
        movie: Path,
        clicks: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise OutOfMemoryError("too large; use a smaller model")

        follower.prompt = fail  # type: ignore[method-assign,assignment]
        assert main(words(movie, clicks, tmp_path / "a.ome.zarr")) == 2
        assert capsys.readouterr().err == "error: too large; use a smaller model\n"
        assert follower.worked == []

    @pytest.mark.filterwarnings("always::RuntimeWarning")
    def test_warnings_of_a_model_are_told(
        self,
        follower: BlobFollower,
        movie: Path,
        clicks: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        told = "memory ran out; went on with the CPU"
        follower.before = lambda frame: warnings.warn(told, RuntimeWarning, stacklevel=1)
        assert main(words(movie, clicks, tmp_path / "a.ome.zarr")) == 0
        assert f"warning: {told}" in capsys.readouterr().err

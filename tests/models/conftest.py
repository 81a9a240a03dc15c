"""A web server with a small checkpoint, a row that names it, and a cache of the test's own."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from file_server import LAYOUT, Server, serving

from napari_segany.models.registry import ModelSpec, spec_of


@pytest.fixture(scope="session")
def checkpoint() -> bytes:
    """The bytes of a small `.pt` file, 3 MB."""
    generator = torch.Generator().manual_seed(0)
    weights = {key: torch.randn(shape, generator=generator) for key, shape in LAYOUT.shapes}
    stream = io.BytesIO()
    torch.save({"model": weights}, stream)
    return stream.getvalue()


@pytest.fixture
def server(checkpoint: bytes) -> Iterator[Server]:
    with serving(checkpoint) as running:
        yield running


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that downloads go to."""
    monkeypatch.setenv("SEGANY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SEGANY_OFFLINE", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache" / "weights"


@pytest.fixture
def row(server: Server, checkpoint: bytes) -> Callable[..., ModelSpec]:
    """Return what makes a row of the served file."""

    def make(**changes: object) -> ModelSpec:
        content = server.content
        spec = replace(
            spec_of("sam2.1_hiera_tiny"),
            file="model.pt",
            url=server.url,
            sha256=hashlib.sha256(content).hexdigest(),
            md5=hashlib.md5(content).hexdigest(),
            size_bytes=len(content),
            layout=LAYOUT,
        )
        return replace(spec, **changes)  # type: ignore[arg-type]  # any field

    return make

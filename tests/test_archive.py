"""Unpacking archives that nobody vouches for."""

import contextlib
import gzip
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from conftest import ROOT, needs_landlock
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.sandbox.hosting import archive
from orchestrator.sandbox.hosting.archive import BadArchive, unpack


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def unpack_bytes(content: bytes, folder) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / "model.tar.gz"
    path.write_bytes(content)
    unpack(path, folder / "model")


def test_files_and_folders_are_unpacked(tmp_path):
    unpack_bytes(
        tar_of((entry("code", tarfile.DIRTYPE), b""), (entry("./code/inference.py"), b"x = 1"),
               (entry("model.joblib"), b"m")), tmp_path,
    )  # fmt: skip
    assert (tmp_path / "model" / "code" / "inference.py").read_bytes() == b"x = 1"
    assert (tmp_path / "model" / "model.joblib").read_bytes() == b"m"


@pytest.mark.parametrize(
    "member",
    [
        entry("../outside"),
        entry("code/../../outside"),
        entry("/outside"),
        entry("a\\..\\outside"),
        entry("link", tarfile.SYMTYPE, "/etc/passwd"),
        entry("link", tarfile.SYMTYPE, "inside"),
        entry("hard", tarfile.LNKTYPE, "../outside"),
        entry("device", tarfile.CHRTYPE),
        entry("fifo", tarfile.FIFOTYPE),
    ],
    ids=lambda member: f"{member.name}:{member.type.decode()}",
)
def test_what_could_reach_outside_is_refused(member, tmp_path):
    with pytest.raises(BadArchive):
        unpack_bytes(tar_of((member, b"")), tmp_path)
    assert not (tmp_path / "outside").exists()
    assert not (tmp_path.parent / "outside").exists()


def test_a_link_cannot_be_written_through(tmp_path):
    (tmp_path / "target").mkdir()
    content = tar_of((entry("out", tarfile.SYMTYPE, "../target"), b""), (entry("out/file"), b"x"))
    with pytest.raises(BadArchive):
        unpack_bytes(content, tmp_path)
    assert not list((tmp_path / "target").iterdir())


def test_a_bomb_is_stopped_at_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_BYTES", 1_000_000)
    with pytest.raises(BadArchive, match="more than 1000000 bytes"):
        unpack_bytes(tar_of((entry("zeros"), bytes(5_000_000))), tmp_path)
    monkeypatch.setattr(archive, "MAX_MEMBERS", 10)
    with pytest.raises(BadArchive, match="more than 10 files"):
        unpack_bytes(tar_of(*((entry(f"f{i}"), b"") for i in range(11))), tmp_path / "two")


def extended(size: int, times: int = 1, kind: bytes = tarfile.GNUTYPE_LONGNAME) -> bytes:
    """A small archive whose headers say that there is more of them."""
    info = entry("././@LongLink", kind)
    info.size = size
    header = info.tobuf(tarfile.GNU_FORMAT) + bytes(min(size, 1 << 20) + 511 & ~511)
    return gzip.compress(header * times + entry("file").tobuf() + bytes(1024), mtime=0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(extended(1 << 30), "extended headers"), (extended(1 << 17), "extended headers"),
     (extended(512, 2000), "extended headers"),
     (extended(1 << 30, kind=tarfile.XHDTYPE), "extended headers"),
     (extended(512, 2000, tarfile.XGLTYPE), "extended headers"),
     (tar_of((entry("/".join("a" * 200)), b"")), "within each other")],
    ids=["a GiB of name", "a long name", "names of names", "a GiB of header", "headers of headers",
         "deep folders"],
)  # fmt: skip
def test_headers_have_an_end(content, reason, tmp_path):
    with pytest.raises(BadArchive, match=reason):
        unpack_bytes(content, tmp_path)


def test_what_takes_too_much_memory_or_time_ends(tmp_path, monkeypatch):
    path = tmp_path / "model.tar.gz"
    path.write_bytes(tar_of((entry("file"), b"1")))
    monkeypatch.setattr(archive, "SECONDS", 0.001)
    with pytest.raises(BadArchive, match="takes more than"):
        unpack(path, tmp_path / "model")


@needs_landlock
def test_whoever_unpacks_cannot_write_elsewhere(tmp_path):
    program = (
        "from orchestrator.sandbox.hosting import archive, confinement; import pathlib, sys\n"
        "archive.extract = lambda *a: pathlib.Path(sys.argv[2], '..', 'outside').write_text('x')\n"
        "archive.main()"
    )
    path = tmp_path / "model.tar.gz"
    path.write_bytes(tar_of((entry("file"), b"1")))
    (tmp_path / "model").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program, path, tmp_path / "model", "1000", "10"], cwd=ROOT,
        capture_output=True, text=True,
    )  # fmt: skip
    assert "PermissionError" in done.stderr
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("content", [b"", b"not an archive", b"\x1f\x8b\x08\0\0\0\0\0"])
def test_what_is_no_archive_is_refused(content, tmp_path):
    with pytest.raises(BadArchive):
        unpack_bytes(content, tmp_path)


def test_a_truncated_archive_is_refused(tmp_path):
    whole = tar_of((entry("data"), bytes(range(256)) * 400))
    for cut in (20, len(whole) // 2, len(whole) - 9):
        folder = tmp_path / str(cut)
        folder.mkdir()
        with pytest.raises(BadArchive):
            unpack_bytes(whole[:cut], folder)


@pytest.mark.fuzz
@given(
    st.binary(max_size=300)
    | st.tuples(
        st.text(max_size=20),
        st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, b"9"]),
        st.binary(max_size=50),
        st.integers(0, 400),
        st.integers(0, 255),
    )
)
def test_no_archive_does_anything_but_unpack_or_be_refused(content):
    if isinstance(content, tuple):
        name, kind, body, place, byte = content
        whole = bytearray(gzip.decompress(tar_of((entry(name, kind), body))))
        whole[place % len(whole)] = byte  # inside, where the checksum of gzip does not catch it
        content = gzip.compress(bytes(whole), mtime=0)
    with tempfile.TemporaryDirectory() as outside:
        folder = Path(outside, "inside")
        folder.mkdir()
        (folder / "model").mkdir()
        (folder / "model.tar.gz").write_bytes(content)
        with contextlib.suppress(BadArchive):
            archive.extract(folder / "model.tar.gz", folder / "model", 1_000_000, 100)
        assert os.listdir(outside) == ["inside"]
        assert {path.name for path in folder.iterdir()} == {"model", "model.tar.gz"}

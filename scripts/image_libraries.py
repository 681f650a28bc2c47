"""Writes down which shared objects the wheels of the worker image hold, and says which need a library that is not there.

    python -m scripts.image_libraries [--wheels DIRECTORY]

Without ``--wheels`` pip brings the wheels first: about 3 GB, and torch has to come as its CUDA build, so that pip must not be
configured to prefer another. The manifest (``MANIFEST``) lets tests resolve all of them without the wheels.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from scripts.shared_objects import SharedObject, SitePackages, Symbols, read_symbols, read_wheel

ROOT = Path(__file__).parent.parent
MANIFEST = ROOT / "tests/deploy/image_libraries.json"
PYTHON = "3.11"
"""That of the image."""
SYSTEM = {
    *("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1", "ld-linux-x86-64.so.2"),
    *("libstdc++.so.6", "libgcc_s.so.1", "libz.so.1"),
}
"""Libraries of Debian's slim base: glibc, and those that dpkg and apt themselves stand on."""
DRIVER = {"libcuda.so.1"}
"""Libraries that the NVIDIA container toolkit mounts from the host."""
CUDA_RUNTIME_12 = "nvidia/cuda_runtime/lib/libcudart.so.12"
BEFORE = {"xformers": (f"torch/_C.cpython-{PYTHON.replace('.', '')}-x86_64-linux-gnu.so", CUDA_RUNTIME_12)}
"""Objects that are loaded before those of a directory: xformers has no search path; it imports torch, and CUDA 12 is loaded for it."""
SOURCE = "written by scripts/image_libraries.py from the wheels themselves"
_CPP_RUNTIME = re.compile(r"_ZN?K?St|_ZT[ISV]N?St")
"""Symbols of namespace std: libstdc++ has them."""
UNUSED = {
    "nvidia/cu13/lib/libcufile_rdma.so.1": "GPUDirect Storage over RDMA",
    "nvidia/cu13/lib/libcusolverMg.so.12": "linear algebra over several GPUs",
    "nvidia/nvshmem/lib/nvshmem_bootstrap_mpi.so.3": "clusters of GPUs",
    "nvidia/nvshmem/lib/nvshmem_bootstrap_pmix.so.3": "clusters of GPUs",
    "nvidia/nvshmem/lib/nvshmem_bootstrap_shmem.so.3": "clusters of GPUs",
    "nvidia/nvshmem/lib/nvshmem_transport_ibdevx.so.3": "clusters of GPUs",
    "nvidia/nvshmem/lib/nvshmem_transport_ibgda.so.3": "clusters of GPUs",
    "nvidia/nvshmem/lib/nvshmem_transport_libfabric.so.3": "clusters of GPUs",
    "nvidia/nvshmem/lib/nvshmem_transport_ucx.so.3": "clusters of GPUs",
    "triton/plugins/libMLIRDialectPlugin.so": "an example of a plugin for Triton's compiler",
    "triton/plugins/libMLIRDialectPlugin.so.23.0git": "the same",
    "triton/plugins/libTritonPluginsTestLib.so": "a plugin for Triton's own tests",
}
"""Plugins that nothing here opens, and what they are for. They need libraries that the image has no use for."""


@dataclass(frozen=True)
class Wheel:
    """One wheel of the image that holds shared objects."""

    version: str
    file: str
    sha256: str
    objects: list[SharedObject]


NO_WHEEL = Wheel("", "", "", [])


@dataclass(frozen=True)
class Manifest:
    """The wheels by distribution, and the symbols that xformers wants, by the name of the library that defines them."""

    wheels: dict[str, Wheel]
    symbols: dict[str, list[str]] = field(default_factory=dict)

    def site_packages(self) -> SitePackages:
        """All of them, installed into one directory."""
        return SitePackages((each for wheel in self.wheels.values() for each in wheel.objects), SYSTEM | DRIVER)


def missing(site: SitePackages) -> Iterator[str]:
    """Every library that an object of the image needs and the loader would not find, as "X needs Y"."""
    for path in sorted(site.objects.keys() - UNUSED):
        yield from site.missing(path, BEFORE.get(path.split("/")[0], ()))


def read_manifest(path: Path = MANIFEST) -> Manifest:
    """The manifest as it was written."""
    document = json.loads(path.read_text())
    return Manifest(
        {
            name: Wheel(wheel["version"], wheel["file"], wheel["sha256"], [_object(each) for each in wheel["objects"]])
            for name, wheel in document["wheels"].items()
        },
        document["symbols"],
    )


def write_manifest(manifest: Manifest, path: Path = MANIFEST) -> None:
    """JSON with a line for each object; empty fields are left out."""
    wheels = []
    for name, wheel in sorted(manifest.wheels.items()):
        facts = {"version": wheel.version, "file": wheel.file, "sha256": wheel.sha256}
        objects = [{key: value for key, value in asdict(each).items() if value} for each in wheel.objects]
        wheels.append(f'"{name}": {json.dumps(facts)[:-1]}, "objects": [\n{_lines(objects)}\n]}}')
    parts = [f'"source": {json.dumps(SOURCE)}', '"wheels": {\n' + ",\n".join(wheels) + "\n}", f'"symbols": {json.dumps(manifest.symbols)}']
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def manifest_of(wheels: Iterable[Path]) -> Manifest:
    """The manifest of wheels; with the symbols that xformers wants, where it is among them."""
    paths = {distribution(wheel)[0]: wheel for wheel in wheels}
    found = {}
    for name, wheel in paths.items():
        objects = sorted(read_wheel(wheel), key=lambda each: each.path)
        if objects:
            digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
            found[name] = Wheel(distribution(wheel)[1], wheel.name, digest, objects)
    return Manifest(found, _definers(paths, found) if "xformers" in found else {})


def _definers(paths: dict[str, Path], found: dict[str, Wheel]) -> dict[str, list[str]]:
    """The symbols that xformers wants from wheels, by the object that defines them; under "" those that none defines."""
    tables = {
        each.name: _symbols(paths[name], each.path)
        for name in ("torch", "nvidia-cuda-runtime-cu12")
        for each in found.get(name, NO_WHEEL).objects
        if each.path.startswith(("torch/lib/", "nvidia/"))
    }
    by_definer: dict[str, set[str]] = {}
    for each in found["xformers"].objects:
        wants = _symbols(paths["xformers"], each.path)
        for library, name in wants.versioned | {("", name) for name in wants.wanted if not _CPP_RUNTIME.match(name)}:
            if library in SYSTEM:
                continue
            candidates = [library] if library else tables
            definer = next((one for one in candidates if one in tables and name in tables[one].defined), "")
            by_definer.setdefault(definer, set()).add(name)
    return {library: sorted(names) for library, names in sorted(by_definer.items())}


def distribution(wheel: Path) -> tuple[str, str]:
    """Name, as constraints.txt writes it, and version of a wheel, from its file's name."""
    name, version = wheel.name.split("-")[:2]
    return name.replace("_", "-").lower(), version


def download(directory: Path) -> None:
    """All wheels of the worker image, at the versions of constraints.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [each for each in (*project["dependencies"], *extras["worker"], *extras["gpu"]) if not each.startswith(f"{project['name']}[")]
    options = ["--only-binary=:all:", f"--python-version={PYTHON}", f"--dest={directory}", f"--constraint={ROOT / 'constraints.txt'}"]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, *wanted], check=True)  # noqa: S603 - our own command


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the manifest; 1 and a list of what is missing, if something is."""
    parser = argparse.ArgumentParser(description="Write down the shared objects of the worker image's wheels.")
    parser.add_argument("--wheels", type=Path, help="a directory that has them; otherwise pip brings them")
    directory: Path | None = parser.parse_args(arguments).wheels
    with tempfile.TemporaryDirectory() as temporary:
        if directory is None:
            directory = Path(temporary)
            download(directory)
        manifest = manifest_of(list(directory.glob("*.whl")))
    torch = manifest.wheels.get("torch")
    if torch is None or not any(each.name == "libtorch_cuda.so" for each in torch.objects):
        print("these wheels have no CUDA build of torch: the manifest is left as it was", file=sys.stderr)
        return 1
    write_manifest(manifest)
    faults = [*missing(manifest.site_packages()), *(f"xformers wants {name}" for name in manifest.symbols.get("", []))]
    print(*faults, f"{sum(len(wheel.objects) for wheel in manifest.wheels.values())} shared objects, {len(faults)} faults", sep="\n")
    return 1 if faults else 0


def _lines(objects: Iterable[object]) -> str:
    return ",\n".join(json.dumps(each) for each in objects)


def _object(fields: dict[str, str | list[str]]) -> SharedObject:
    return SharedObject(**{key: value if isinstance(value, str) else tuple(value) for key, value in fields.items()})  # type: ignore[arg-type]


def _symbols(wheel: Path, path: str) -> Symbols:
    with zipfile.ZipFile(wheel) as archive:
        return read_symbols(io.BytesIO(archive.read(path)))


if __name__ == "__main__":
    sys.exit(main())

"""ELF shared objects of wheels, and how the dynamic loader finds what they need (ld.so(8)), without loading any."""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile

MAGIC = b"\x7fELF"
_INSTALLED_AS = re.compile(r"^[^/]+\.data/(?:platlib|purelib)/")


@dataclass(frozen=True)
class SharedObject:
    """One file that the dynamic loader may load. ``path`` is the one inside site-packages."""

    path: str
    soname: str = ""
    needs: tuple[str, ...] = ()
    rpath: tuple[str, ...] = ()
    runpath: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name by which others ask for it."""
        return self.soname or posixpath.basename(self.path)


@dataclass(frozen=True)
class Symbols:
    """The dynamic symbols of a shared object: those that it defines, and those that it wants."""

    defined: frozenset[str] = frozenset()
    wanted: frozenset[str] = frozenset()
    """Without a version, so that any loaded object may define them. Weak ones may stay undefined and are left out."""
    versioned: frozenset[tuple[str, str]] = frozenset()
    """Versioned ones, each behind the name of the needed library that has to define it."""


def read_wheel(wheel: Path) -> Iterator[SharedObject]:
    """Every shared object of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as file:
                if file.read(len(MAGIC)) != MAGIC:
                    continue
            yield read(io.BytesIO(archive.read(entry)), _INSTALLED_AS.sub("", entry.filename))


def read(file: Any, path: str) -> SharedObject:
    """The dynamic section of an open ELF file; an object without one needs nothing and is asked for by its file's name."""
    section = _section(ELFFile(file), ".dynamic")
    found: dict[str, list[str]] = {"soname": [], "needed": [], "rpath": [], "runpath": []}
    for tag in section.iter_tags() if section else ():
        name = tag.entry.d_tag.removeprefix("DT_").lower()
        if name in found:
            found[name].append(getattr(tag, name))
    return SharedObject(
        path,
        soname="".join(found["soname"]),
        needs=tuple(found["needed"]),
        rpath=tuple(filter(None, ":".join(found["rpath"]).split(":"))),
        runpath=tuple(filter(None, ":".join(found["runpath"]).split(":"))),
    )


def read_symbols(file: Any) -> Symbols:
    """The dynamic symbols of an open ELF file."""
    elf = ELFFile(file)
    requirements = _section(elf, ".gnu.version_r")
    owners = {each.entry.vna_other: of.name for of, each in _pairs(requirements)} if requirements else {}
    versions = _section(elf, ".gnu.version")
    defined, wanted, versioned = set(), set(), set()
    for index, symbol in enumerate(_section(elf, ".dynsym").iter_symbols()):
        if symbol.entry.st_shndx != "SHN_UNDEF":
            defined.add(symbol.name)
        elif symbol.name and symbol.entry.st_info.bind != "STB_WEAK":
            owner = owners.get(versions.get_symbol(index).entry.ndx) if versions else None
            if owner:
                versioned.add((owner, symbol.name))
            else:
                wanted.add(symbol.name)
    return Symbols(frozenset(defined), frozenset(wanted), frozenset(versioned))


def _section(elf: ELFFile, name: str) -> Any:
    """A section by its name, or None; what it can be asked depends on its kind."""
    return elf.get_section_by_name(name)


def _pairs(requirements: Any) -> Iterator[tuple[Any, Any]]:
    """Each needed library with each version of it that is required."""
    for library, versions in requirements.iter_versions():
        for version in versions:
            yield library, version


class SitePackages:
    """The shared objects of an installation, and what the loader makes of them."""

    def __init__(self, objects: Iterable[SharedObject], system: Iterable[str]) -> None:
        """``system`` names the libraries that are found without these wheels: the base image's and the driver's."""
        self.objects = {each.path: each for each in objects}
        self.system = frozenset(system)

    def missing(self, path: str, before: Iterable[str] = ()) -> list[str]:
        """Libraries that loading ``path`` does not find, as "X needs Y", after those of ``before`` that are there were loaded."""
        loaded: dict[str, str] = {}
        for each in before:
            if each in self.objects:
                self._load(self.objects[each], loaded, ())
        return self._load(self.objects[path], loaded, ())

    def _load(self, this: SharedObject, loaded: dict[str, str], inherited: tuple[str, ...]) -> list[str]:
        """``loaded`` maps names to paths and grows; ``inherited`` are the RPATHs of what asked for ``this``."""
        loaded[this.name] = this.path
        own = () if this.runpath else tuple(_expand(this.rpath, this.path))
        chain = () if this.runpath else own + inherited
        absent = []
        for name in this.needs:
            if name in loaded or name in self.system:
                continue
            found = self._find(name, tuple(_expand(this.runpath, this.path)) or chain)
            if found is None:
                absent.append(f"{this.path} needs {name}")
            else:
                absent += self._load(found, loaded, own + inherited)
        return absent

    def _find(self, name: str, directories: Iterable[str]) -> SharedObject | None:
        paths = (posixpath.join(directory, name) for directory in directories)
        return next((self.objects[path] for path in paths if path in self.objects), None)


def _expand(directories: Iterable[str], path: str) -> Iterator[str]:
    """Search directories inside site-packages; others (a build machine's) hold nothing there."""
    for directory in directories:
        for origin in ("$ORIGIN", "${ORIGIN}"):
            if directory.startswith(origin):
                yield posixpath.normpath(posixpath.dirname(path) + directory.removeprefix(origin))

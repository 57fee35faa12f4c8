"""What a shared library asks of the machine that loads it: the libraries (NEEDED) and the versions of their symbols."""

import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_C: Final = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1")
BASE: Final = frozenset({*_C, "libgcc_s.so.1", "libstdc++.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"})
"""What Amazon Linux 2023 has in Lambda's base image."""
NEWEST: Final[Mapping[str, tuple[int, ...]]] = {"GLIBC": (2, 34), "GLIBCXX": (3, 4, 29), "CXXABI": (1, 3, 13)}
"""The newest symbol versions of Amazon Linux 2023 (glibc 2.34, GCC 11)."""

_DYNAMIC: Final = 6
_VERNEED: Final = 0x6FFFFFFE
_NEEDED: Final = 1
MACHINES: Final = {62: "x86_64", 183: "arm64"}


@dataclass(frozen=True)
class Library:
    """One ELF file."""

    machine: str
    needed: frozenset[str]
    versions: frozenset[str]
    """Such as `GLIBC_2.34`, of other libraries' symbols."""


def read(data: bytes) -> Library:
    """A 64-bit little-endian ELF file (readelf -d -V)."""
    assert data[:6] == b"\x7fELF\x02\x01", "no 64-bit little-endian ELF"
    (machine,) = struct.unpack_from("<H", data, 18)
    sections = list(_sections(data))
    needed, versions = set(), set()
    for kind, link, content in sections:
        names = sections[link][2] if link < len(sections) else b""
        if kind == _DYNAMIC:
            tags = (struct.unpack_from("<qQ", content, at) for at in range(0, len(content), 16))
            needed |= {_text(names, value) for tag, value in tags if tag == _NEEDED}
        if kind == _VERNEED:
            versions |= set(_versions(content, names))
    return Library(MACHINES[machine], frozenset(needed), frozenset(versions))


def _sections(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    (start,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    for at in range(start, start + size * count, size):
        _, kind, _, _, offset, length, link = struct.unpack_from("<IIQQQQI", data, at)
        yield kind, link, data[offset : offset + length]


def _versions(content: bytes, names: bytes) -> Iterator[str]:
    at, more = 0, True
    while more:
        _, count, _, first, following = struct.unpack_from("<HHIII", content, at)
        entry = at + first
        for _ in range(count):
            _, _, _, name, step = struct.unpack_from("<IHHII", content, entry)
            yield _text(names, name)
            entry += step
        at, more = at + following, bool(following)


def _text(names: bytes, at: int) -> str:
    return names[at : names.index(b"\0", at)].decode()


def check_for_amazon_linux(opened: zipfile.ZipFile, machine: str) -> int:
    """Fail unless every library of the zip can be loaded there; the number of libraries."""
    names = [name for name in opened.namelist() if ".so" in Path(name).suffixes and not name.endswith(".py")]
    there = BASE | {Path(name).name for name in names}
    for name in names:
        found = read(opened.read(name))
        assert found.machine == machine, name
        assert found.needed <= there, name
        for version in found.versions:
            family, _, number = version.partition("_")
            if family in NEWEST and number[:1].isdigit():
                assert tuple(map(int, number.split("."))) <= NEWEST[family], f"{name} needs {version}"
    return len(names)

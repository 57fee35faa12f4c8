"""Checksums of models and snapshots: what is damaged is rejected before it is parsed.

A manifest holds `sha256`, the SHA-256 of the file beside it, and `checksum`, that of its own other fields (as compact
JSON with sorted keys). A manifest without `sha256` has the earlier format: its file is accepted with a warning.
"""

import hashlib
import logging
from typing import Any, TypeVar

import msgspec

from pingfeed.core.errors import FormatError

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding JSON raises, whatever the bytes are."""
_log = logging.getLogger(__name__)


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a manifest that protects it and its file."""

    sha256: str = ""
    checksum: str = ""


class SnapshotManifest(Sealed, frozen=True, kw_only=True):
    """What lies beside `snapshot.bin`."""

    tick: int
    digest: str
    rows: int
    created_ms: int


_Kind = TypeVar("_Kind", bound=Sealed)


def seal(manifest: Sealed, data: bytes) -> bytes:
    """The manifest's JSON, with the checksums of `data` and of itself."""
    fields = msgspec.to_builtins(manifest) | {"sha256": hashlib.sha256(data).hexdigest()}
    return msgspec.json.encode(fields | {"checksum": _checksum(fields)})


def read_manifest(kind: type[_Kind], data: bytes, name: str) -> _Kind:
    """The manifest of the artifact `name`; FormatError if it is damaged."""
    try:
        manifest = msgspec.json.decode(data, type=kind)
        fields = msgspec.json.decode(data, type=dict[str, Any])
    except UNREADABLE as error:
        raise FormatError(f"the manifest of {name} is damaged: {error}") from error
    if manifest.sha256 and manifest.checksum and manifest.checksum != _checksum(fields):
        raise FormatError(f"the manifest of {name} is damaged: its checksum does not match")
    return manifest


def verify(manifest: Sealed, data: bytes, name: str) -> None:
    """Raise FormatError unless `data` are the bytes that the manifest was written for."""
    if not manifest.sha256:
        _log.warning("%s has no SHA-256 in its manifest (an older format): it is used unchecked", name)
    elif hashlib.sha256(data).hexdigest() != manifest.sha256:
        raise FormatError(f"{name} is damaged: its SHA-256 is not the one in its manifest")


def _checksum(fields: dict[str, Any]) -> str:
    """Of all fields but the checksum itself; those that this version does not know count too."""
    known = {name: value for name, value in fields.items() if name != "checksum"}
    return hashlib.sha256(msgspec.json.encode(known, order="sorted")).hexdigest()

"""Archives made for a test, good and hostile."""

from __future__ import annotations

import io
import warnings
import zipfile


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of these files; the same name may be there twice."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, method)  # of 1980: the same bytes at any time
    return buffer.getvalue()


def zipped_link(name: str, target: str) -> bytes:
    """A zip of a symbolic link."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.create_system = 3
        info.external_attr = 0o120777 << 16
        archive.writestr(info, target)
    return buffer.getvalue()


def patched(archive: bytes, local: int, central: int, new: bytes) -> bytes:
    """A zip of one file with a field of both its headers changed; the two offsets are within the headers."""
    changed = bytearray(archive)
    for signature, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        begin = archive.index(signature) + offset
        changed[begin : begin + len(new)] = new
    return bytes(changed)

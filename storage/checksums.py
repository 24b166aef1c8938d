"""Checksums: what a record vouches for. SHA-256, because CPUs compute it in hardware and anyone can check it."""

import hashlib
from functools import lru_cache
from pathlib import Path


def checksum_bytes(data: bytes) -> str:
    """Return `sha256:<hex>` of the bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def checksum_file(path: Path) -> str:
    """Return `sha256:<hex>` of a file, read in blocks so that memory does not grow with it."""
    with path.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def checksum_once(path: Path) -> str:
    """Return `sha256:<hex>` of a file, read again in a process only where its size, time or inode is another one."""
    stat = path.stat()
    return _checksum_of(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=256)
def _checksum_of(path: Path, *_stamp: int) -> str:
    return checksum_file(path)


def text_hash(text: str) -> bytes:
    """Return the 16 bytes that tie every row of every stage to the chunk of text it was made from."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()

"""Ways in which a disk, a copy or a person damages a file, each undone afterwards."""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

LONGEST = 4096  # bytes that are zeroed at once


def flip(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """Turn one bit."""
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]


def cut(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """Lose the end."""
    return data[: draw.randrange(len(data))]


def zero(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """Lose a block to zeros."""
    at = draw.randrange(len(data))
    size = min(draw.randint(1, LONGEST), len(data) - at)
    return data[:at] + bytes(size) + data[at + size :]


def grow(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """Gain some bytes."""
    return data + draw.randbytes(draw.randint(1, 64))


def replace(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """Become other bytes of the same number."""
    return draw.randbytes(len(data))


def swap(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """Become another file of the same kind."""
    return other


DAMAGES: dict[str, Callable[[bytes, random.Random, bytes], bytes]] = {
    damage.__name__: damage for damage in (flip, cut, zero, grow, replace, swap)
}


@contextmanager
def damaged(path: Path, others: Sequence[Path], draw: random.Random) -> Iterator[str]:
    """Damage a file in a way that changes it; yield the way's name, and undo it."""
    data = path.read_bytes()
    way, changed = data_changed(data, [other.read_bytes() for other in others], draw)
    path.write_bytes(changed)
    os.utime(path, ns=(0, draw.randrange(1 << 60)))  # no stamp of an earlier damage
    try:
        yield way
    finally:
        path.write_bytes(data)


def data_changed(data: bytes, others: Sequence[bytes], draw: random.Random) -> tuple[str, bytes]:
    """Return a way of damage and its result, which differs from the data."""
    while True:
        way = draw.choice(list(DAMAGES))
        changed = DAMAGES[way](data, draw, draw.choice(others) if others else data)
        if changed != data:
            return way, changed

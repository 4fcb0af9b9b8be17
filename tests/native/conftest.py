"""What the kernel's tests are given."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def broken() -> Callable[[bytes, random.Random], bytes]:
    """A function that breaks a text, otherwise each time."""
    return _broken


def _broken(text: bytes, chance: random.Random) -> bytes:
    """The text with some of its bytes gone, changed, or moved; nothing that makes it longer than twice what it was."""
    broken = bytearray(text)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(broken) + 1)
        until = min(len(broken), at + chance.randint(0, 6))
        match chance.randrange(6):
            case 0:
                del broken[at:until]
            case 1:
                broken[at:at] = bytes(
                    chance.choices(b'{}[]",:\\0123456789.eE+-tfnul \n\t\0\x1f\x7f\xff\xc3\xa9', k=chance.randint(1, 4))
                )
            case 2:
                broken[at:at] = broken[at:until]
            case 3:
                del broken[at:]
            case 4 if at < len(broken):
                broken[at] ^= 1 << chance.randrange(8)
            case _:
                other = chance.randrange(len(broken) + 1)
                broken[at:until] = broken[other : other + chance.randint(0, 6)]
    return bytes(broken)

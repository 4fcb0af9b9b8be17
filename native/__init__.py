"""The kernel: what is done to every byte of every record, in C, without the interpreter's lock (docs/adr/0023-kernel.md).

Invariant: what it gives is to the byte what the libraries' way gives, which is taken wherever the kernel is missing, is of other sources than those beside it,
is switched off (NATIVE_KERNEL=off), or says that it cannot. So it changes how long a load takes, and nothing else.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent

LIBRARY: Final = HERE / "kernel.so"

SWITCH: Final = "NATIVE_KERNEL"
"""The app setting; `off` switches the kernel off, anything else is the path of the library to take instead of `LIBRARY`."""

REMEDY: Final = "`python -m native.build` builds it"


def sources() -> list[Path]:
    """The kernel's C files, headers included."""
    return sorted(HERE.glob("*.[ch]"))


def digest() -> str:
    """Identity of the sources: a library that was built of others is not used."""
    whole = hashlib.sha256()
    for path in sources():
        whole.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return whole.hexdigest()


def is_off(switch: str) -> bool:
    """Whether the app setting switches the kernel off."""
    return switch.strip().lower() == "off"


def look(switch: str) -> tuple[ctypes.CDLL | None, str]:
    """What `loaded` gives where the app setting is `switch`."""
    if is_off(switch):
        return None, f"switched off ({SWITCH}=off)"
    named = switch.strip()
    path = Path(named).absolute() if named else LIBRARY
    if not path.is_file():
        return None, f"{SWITCH} is neither off nor a library: {named!r}" if named else f"not built: {REMEDY}"
    try:
        library = ctypes.CDLL(str(path))
        library.kernel_sources.restype = ctypes.c_char_p
        built_of = library.kernel_sources().decode()
    except (OSError, AttributeError) as error:
        return None, f"built for another machine ({type(error).__name__}): {REMEDY} anew"
    if built_of != digest():
        return None, f"built of other sources: {REMEDY} anew"
    return library, "in use"


@cache
def loaded() -> tuple[ctypes.CDLL | None, str]:
    """The library, and in words what there is: why it is not used, or that it is."""
    return look(os.environ.get(SWITCH, ""))


def kernel() -> ctypes.CDLL | None:
    """The library, where it can be used."""
    return loaded()[0]

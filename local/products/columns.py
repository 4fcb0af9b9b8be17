"""Columns of synthetic values: hashes of record numbers and the texts that are made from them, a page at a time.

Every function maps an array of record numbers to an array of the same length, element by element, with no state:
that is why a record is the same in whatever page, order or process it is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

type_text = pa.large_binary()
FIRST_DAY = date(2023, 1, 1)
DAYS = 1024
"""No record of day 0 has a time on or after FIRST_DAY + DAYS."""
_LAST_DAYS = 8192
_MASK64 = (1 << 64) - 1


def u64(value: int) -> Any:
    """An unsigned 64-bit scalar (arithmetic on it wraps, as the hash needs)."""
    return pa.scalar(value & _MASK64, pa.uint64())


def text(value: bytes) -> Any:
    """A scalar that `binary_join_element_wise` spreads over a column."""
    return pa.scalar(value, type_text)


def table(values: Iterable[bytes]) -> Any:
    """A lookup table of texts, for `pick`."""
    return pa.array(list(values), type_text)


def numbers(first: int, count: int) -> Any:
    """The record numbers first .. first + count - 1."""
    if count <= len(_counted()):
        return pc.add(_counted().slice(0, count), u64(first))
    return pa.array(range(first, first + count), pa.uint64())


@cache
def _counted() -> Any:
    return pa.array(range(65536), pa.uint64())


def mix64(x: Any, key: int) -> Any:
    """The splitmix64 finaliser of `x * golden + key`: a bijection of 64-bit numbers for each key (Steele et al., 2014)."""
    z = pc.add(pc.multiply(x, u64(0x9E3779B97F4A7C15)), u64(key))
    z = pc.multiply(pc.bit_wise_xor(z, pc.shift_right(z, u64(30))), u64(0xBF58476D1CE4E5B9))
    z = pc.multiply(pc.bit_wise_xor(z, pc.shift_right(z, u64(27))), u64(0x94D049BB133111EB))
    return pc.bit_wise_xor(z, pc.shift_right(z, u64(31)))


def key_of(seed: int, name: str) -> int:
    """A hash key for one purpose under one seed, the same in every process."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest(), "big")


def scramble32(x: Any, seed: int, name: str) -> Any:
    """A bijection of the numbers below 2**32, so that identities made from it are unique without being consecutive."""
    key = key_of(seed, name)
    low = u64(0xFFFFFFFF)
    z = pc.bit_wise_and(pc.add(pc.multiply(x, u64(0x9E3779B1)), u64(key)), low)
    z = pc.bit_wise_xor(z, pc.shift_right(z, u64(16)))
    z = pc.bit_wise_and(pc.multiply(z, u64(0x85EBCA6B)), low)
    return pc.bit_wise_xor(z, pc.shift_right(z, u64(13)))


def field(h: Any, shift: int, size: int, width: int = 16) -> Any:
    """`width` bits of a hash from bit `shift`, scaled to 0 .. size - 1."""
    bits = pc.bit_wise_and(pc.shift_right(h, u64(shift)), u64((1 << width) - 1))
    if size == 1 << width:
        return bits
    return pc.shift_right(pc.multiply(bits, u64(size)), u64(width))


def pick(values: Any, index: Any) -> Any:
    """The table's entries at `index`."""
    return pc.take(values, index, boundscheck=False)


def join(*parts: Any) -> Any:
    """The texts of the columns and scalars, joined element by element; at least one of them is a column."""
    return pc.binary_join_element_wise(*parts, text(b""))


def digits(values: Any) -> Any:
    """Whole numbers as decimal text."""
    return pc.cast(pc.cast(values, pa.large_string()), type_text)


def modulo(x: Any, n: int) -> Any:
    """x mod n for unsigned columns (pyarrow has division only)."""
    return pc.subtract(x, pc.multiply(pc.divide(x, u64(n)), u64(n)))


def weighted(weights: Sequence[int | float], size: int = 4096) -> Any:
    """A table of `size` indexes in which each index takes its share, at least one place (for `pick` by a hash field)."""
    total = float(sum(weights))
    exact = [w / total * size for w in weights]
    places = [max(1, int(e)) if w > 0 else 0 for e, w in zip(exact, weights, strict=True)]
    by_need = sorted(range(len(weights)), key=lambda i: places[i] - exact[i])
    step = 0
    while sum(places) != size:
        change = 1 if sum(places) < size else -1
        candidate = by_need[step % len(by_need)] if change > 0 else max(range(len(places)), key=places.__getitem__)
        places[candidate] += change
        step += 1
    return pa.array([i for i, n in enumerate(places) for _ in range(n)], pa.uint32())


@cache
def hex4() -> Any:
    """The 65,536 texts of four lower-case hexadecimal digits."""
    return table(b"%04x" % i for i in range(65536))


@cache
def _octets() -> Any:
    return table(b"%d.%d" % (i >> 8, i & 255) for i in range(65536))


@cache
def _octet_pairs(separator: bytes) -> Any:
    return table(b"%02x%s%02x" % (i >> 8, separator, i & 255) for i in range(65536))


def hex_text(h: Any, groups: int, shift: int = 0) -> Any:
    """`groups` times four hexadecimal digits of a hash, from bit `shift` upwards."""
    return join(*(pick(hex4(), field(h, shift + 16 * g, 65536)) for g in range(groups)))


def uuid_text(high: Any, low: Any, upper: bool = False) -> Any:
    """Two 64-bit numbers as a UUID; distinct pairs give distinct texts."""
    part = [pick(hex4(), field(n, s, 65536)) for n in (high, low) for s in (48, 32, 16, 0)]
    dash = text(b"-")
    out = join(part[0], part[1], dash, part[2], dash, part[3], dash, part[4], dash, part[5], part[6], part[7])
    return pc.cast(pc.ascii_upper(pc.cast(out, pa.large_string())), type_text) if upper else out


def ipv4(prefix: bytes, value: Any) -> Any:
    """`prefix` (such as b"10.") and 24 or 32 bits as a dotted address: 24 bits follow one octet of prefix, 32 none."""
    low = pick(_octets(), field(value, 0, 65536))
    if prefix:
        return join(text(prefix), pick(_octet(), field(value, 16, 256, 8)), text(b"."), low)
    return join(pick(_octets(), field(value, 16, 65536)), text(b"."), low)


@cache
def _octet() -> Any:
    return table(b"%d" % i for i in range(256))


def external_ipv4(value28: Any) -> Any:
    """28 bits as an address of 240.0.0.0/4, which belongs to nobody (RFC 1112 §4); distinct numbers, distinct addresses."""
    return ipv4(b"", pc.add(pc.bit_wise_and(value28, u64(0x0FFFFFFF)), u64(0xF0000000)))


def mac(h: Any) -> Any:
    """Forty bits of a hash as a locally administered MAC address."""
    pairs = _octet_pairs(b":")
    tail = pick(_octet_hex(), field(h, 32, 256, 8))
    colon = text(b":")
    return join(text(b"02:"), tail, colon, pick(pairs, field(h, 16, 65536)), colon, pick(pairs, field(h, 0, 65536)))


@cache
def _octet_hex() -> Any:
    return table(b"%02x" % i for i in range(256))


@cache
def _clock() -> tuple[Any, Any, Any, Any]:
    days = table((FIRST_DAY + timedelta(days=d)).isoformat().encode() + b"T" for d in range(_LAST_DAYS))
    minutes = table(b"%02d:%02d:" % divmod(m, 60) for m in range(1440))
    millis = table(b"%02d.%03d" % divmod(ms, 1000) for ms in range(60000))
    seconds = table(b"%02d" % s for s in range(60))
    return days, minutes, millis, seconds


class Moments:
    """A column of times: a day (0 = FIRST_DAY) from the caller, the time of day from a hash."""

    def __init__(self, day: Any, h: Any) -> None:
        self.day = day
        self.minute = field(h, 0, 1440)
        self.ms = field(h, 16, 60000)

    def text(self, suffix: bytes = b"Z") -> Any:
        """`2024-05-06T07:08:09.123` and the suffix (Device42 writes microseconds: b"456Z")."""
        days, minutes, millis, _ = _clock()
        return join(pick(days, self.day), pick(minutes, self.minute), pick(millis, self.ms), text(suffix))

    def text_seconds(self) -> Any:
        """`2024-05-06T07:08:09Z`."""
        days, minutes, _, seconds = _clock()
        second = pc.divide(self.ms, u64(1000))
        return join(pick(days, self.day), pick(minutes, self.minute), pick(seconds, second), text(b"Z"))

    def epoch_s(self) -> Any:
        """Seconds since 1970, fractions cut."""
        first = int(datetime.combine(FIRST_DAY, datetime.min.time(), UTC).timestamp())
        day_s = pc.multiply(pc.cast(self.day, pa.uint64()), u64(86400))
        minute_s = pc.multiply(self.minute, u64(60))
        return pc.add(pc.add(pc.add(day_s, minute_s), pc.divide(self.ms, u64(1000))), u64(first))


@dataclass(frozen=True)
class Age:
    """How old a page's records are, in days of the inventory's life: 0 is as the record was first.

    `version`: the day of the last change; `touched`: the day on which its times last moved; `born`: the day of creation
    (None: all 0); `epoch`: the day of FIRST_DAY's calendar that day 0 is.
    """

    version: Any
    touched: Any
    born: Any = None
    epoch: int = DAYS - 1


class Draws:
    """The hashes of a stream's records: one independent 64-bit number per record and name.

    A volatile draw also depends on the record's version, so that a changed record keeps its identity. `age` is None for
    records as they were first.
    """

    def __init__(self, seed: int, stream: str, index: Any, age: Age | None = None) -> None:
        self.seed = seed
        self.stream = stream
        self.index = index
        self.age = age
        self._known: dict[str, Any] = {}

    def hash(self, name: str, volatile: bool = False) -> Any:
        """The draw of that name; the same array for the same name."""
        if name not in self._known:
            on = self.age.version if volatile and self.age is not None else None
            self._known[name] = self._drawn(name, on)
        return self._known[name]

    def _drawn(self, name: str, on: Any) -> Any:
        source = self.index
        if on is not None:
            source = pc.bit_wise_xor(source, pc.multiply(pc.cast(on, pa.uint64()), u64(0xD6E8FEB86659FD93)))
        return mix64(source, key_of(self.seed, f"{self.stream}/{name}"))

    def variant(self, template: Any, size: int) -> Any:
        """The template of each record at its age: one of the three altered copies behind the `size` first ones."""
        if self.age is None:
            return template
        copy = pc.add(field(self.hash("variant", volatile=True), 0, 3), u64(1))
        copy = pc.if_else(pc.greater(self.age.version, pa.scalar(0, pa.uint16())), copy, u64(0))
        return pc.add(pc.cast(template, pa.uint64()), pc.multiply(copy, u64(size)))

    def revision(self) -> dict[str, Any]:
        """The slot that tells one version of a record from all others; none for records as they were first."""
        return {} if self.age is None else {"revision": digits(self.age.version)}

    def first(self, moments: Moments) -> Moments:
        """The times at which the records were first seen: in the morning of the day on which they were created."""
        return moments if self.age is None or self.age.born is None else self._on(moments, self.age.born, 0)

    def last(self, moments: Moments) -> Moments:
        """The times at which the records were last seen: in the afternoon of the day on which they were touched."""
        return moments if self.age is None else self._on(moments, self.age.touched, 720)

    def altered(self, moments: Moments) -> Moments:
        """The times at which the records last came into their state; a touch does not move them."""
        if self.age is None:
            return moments
        born, version = self.age.born, self.age.version
        return self._on(moments, version if born is None else pc.max_element_wise(version, born), 720)

    def _on(self, moments: Moments, on: Any, first_minute: int) -> Moments:
        h, happened = self._drawn(f"time/{first_minute}", on), pc.greater(on, pa.scalar(0, pa.uint16()))
        day = pc.add(pc.cast(on, pa.uint64()), u64(self.age.epoch if self.age else 0))
        minute = pc.add(field(h, 0, 720), u64(first_minute))
        moved = Moments(pc.if_else(happened, day, moments.day), h)
        moved.minute = pc.if_else(happened, minute, moments.minute)
        moved.ms = pc.if_else(happened, moved.ms, moments.ms)
        return moved

"""How fast the machine is at this moment: a fixed piece of work of a load's kind, so that lines that were measured in different hours can be compared.

Invariant: none of the app's code is in it, so from one measurement to the next only the machine differs, or a library's version. Run in a process of its own,
`python -m bench.pace`, on two cores at once, as a load does.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent

RECORDS: Final = 4_000
ROUNDS: Final = 20
THREADS: Final = 2


def measure() -> float:
    """MB of JSON per CPU second that decoding, Parquet and gzip take together. Raises CalledProcessError when the process breaks."""
    said = subprocess.run([sys.executable, "-m", "bench.pace"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return float(said.stdout)


def content() -> bytes:
    """Records as products send them, a line each: 4 MB, of which a part of the fields is read."""
    return b"".join(
        json.dumps(
            {
                "id": f"asset/host-{number:08d}.example.com",
                "status": "normal" if number % 3 else "new",
                "seen": f"2026-{number % 12 + 1:02d}-{number % 28 + 1:02d}T{number % 24:02d}:00:00.{number:06d}Z",
                "score": number % 1000 / 10,
                "owners": [f"Team {number % 50}", f"Team {number % 7}"],
                "network": {
                    "ip": f"10.{number % 256}.{number // 256 % 256}.1",
                    "ports": [{"port": 443, "open": True}] * 4,
                },
                "description": f"Found on host {number} by a scan. " * 12,
                "other": {f"field_{at}": f"value {number * at % 9973}" for at in range(12)},
            }
        ).encode()
        + b"\n"
        for number in range(RECORDS)
    )


def pace(lines: bytes) -> float:
    """MB of `lines` per CPU second of this process, several times on several threads."""
    import pyarrow as pa
    import pyarrow.json as pj
    import pyarrow.parquet as pq
    from isal import igzip

    port = pa.struct([("port", pa.int64()), ("open", pa.bool_())])
    fields = {
        "id": pa.string(),
        "seen": pa.string(),
        "score": pa.float64(),
        "owners": pa.list_(pa.string()),
        "network": pa.struct([("ip", pa.string()), ("ports", pa.list_(port))]),
    }
    reading = pj.ReadOptions(use_threads=False, block_size=len(lines) + 1)
    parsing = pj.ParseOptions(explicit_schema=pa.schema(fields), unexpected_field_behavior="ignore")

    def once() -> None:
        table = pj.read_json(pa.BufferReader(lines), reading, parsing)
        pq.write_table(table, io.BytesIO(), compression="lz4")
        for at in range(0, len(lines), 1 << 20):
            igzip.compress(lines[at : at + (1 << 20)], 1)

    once()
    begun = time.process_time()
    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(once) for _ in range(ROUNDS)]:
            done.result()
    return ROUNDS * len(lines) / 1e6 / (time.process_time() - begun)


if __name__ == "__main__":
    print(round(pace(content()), 1))

"""Rates of the record batch codec: ``python bench/codec.py``. One core, best of five."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

from kateway.model import Message
from kateway.storage.kafka.protocol import record_batches as records

ROUNDS = 5
GC_THRESHOLD = 20000


def best(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def main() -> None:
    # as a daemon does once it has started; with Python's defaults the collector takes half of the decoding time
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 10, 50)
    header = (("content-type", b"application/json"),)
    shapes = {
        "100 bytes": [Message(b"x" * 100) for _ in range(5000)],
        "100 bytes, key": [Message(b"x" * 100, b"key-%d" % n) for n in range(5000)],
        "100 bytes, header": [Message(b"x" * 100, None, header) for _ in range(5000)],
        "1000 bytes": [Message(b"x" * 1000) for _ in range(1000)],
    }
    for name, messages in shapes.items():
        encode = best(lambda m=messages: records.encode_batch(m, now_ms=1))  # type: ignore[misc]
        blob = records.encode_batch(messages, now_ms=1)
        decode = best(lambda b=blob: [records.decode(batch) for batch in records.batches(b)])  # type: ignore[misc]
        print(
            f"{name:20} encode {len(messages) / encode / 1e6:5.2f} M/s  decode {len(messages) / decode / 1e6:5.2f} M/s"
        )
    one = [Message(b"x" * 100)]
    single = best(lambda: [records.encode_batch(one, now_ms=1) for _ in range(5000)])
    print(f"one record a batch   encode {5000 / single / 1e6:5.2f} M/s")
    messages = shapes["100 bytes, key"]
    for codec in ("gzip", "snappy", "lz4", "zstd"):
        encode = best(lambda c=codec: records.encode_batch(messages, now_ms=1, compression=c))  # type: ignore[misc]
        blob = records.encode_batch(messages, now_ms=1, compression=codec)
        decode = best(lambda b=blob: [records.decode(batch) for batch in records.batches(b)])  # type: ignore[misc]
        print(
            f"{codec:20} encode {len(messages) / encode / 1e6:5.2f} M/s  decode {len(messages) / decode / 1e6:5.2f} M/s"
        )


if __name__ == "__main__":
    main()

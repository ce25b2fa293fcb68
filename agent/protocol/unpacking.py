"""Bodies that come compressed: gzip and deflate, and never more than may be read."""

import zlib

NAMES = {"gzip", "x-gzip", "deflate"}
GZIP = b"\x1f\x8b"  # with it a body begins, though its header may not say so
GZIP_OR_ZLIB, RAW = 47, -15  # as zlib has it; servers call both of the latter deflate


def unpacked(body: bytes, encoding: str, most: int) -> bytes:
    """Return a body as it was before it was compressed, and no more than `most` + 1.

    What cannot be unpacked is returned as it is: it is no answer.
    """
    if encoding.strip().lower() not in NAMES and not body.startswith(GZIP):
        return body
    for window in (GZIP_OR_ZLIB, RAW):
        try:
            return zlib.decompressobj(window).decompress(body, most + 1)
        except zlib.error:
            continue
    return body

"""The hash of keys is SipHash-2-4, bit for bit."""

from __future__ import annotations

import pytest

from ratelimitd.limits.table import siphash24


def test_siphash_is_that_of_the_reference() -> None:
    # vectors_sip64 of the authors' implementation: key 00 01 .. 0f, input 00 01 .. (n - 1)
    vectors = {
        0: "310e0edd47db6f72",
        1: "fd67dc93c539f874",
        2: "5a4fa9d909806c0d",
        3: "2d7efbd796666785",
        4: "b7877127e09427cf",
        5: "8da699cd64557618",
        6: "cee3fe586e46c9cb",
        7: "37d1018bf50002ab",
        8: "6224939a79f5f593",
        15: "e545be4961ca29a1",
        63: "724506eb4c328a95",
    }
    for length, expected in vectors.items():
        assert siphash24(bytes(range(length)), bytes(range(16))).to_bytes(8, "little").hex() == expected
    with pytest.raises(ValueError, match="16 bytes"):
        siphash24(b"", b"short")

# Types of the compiled module, checked against it by mypy.stubtest.

from collections.abc import Sequence

def packed(
    prefix: bytes, key: int, numbers: Sequence[float], pairs: Sequence[tuple[float, float]] = ()
) -> bytes: ...
def whole(command: bytes) -> bytes: ...

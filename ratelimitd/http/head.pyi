from typing import Self

METHODS: frozenset[bytes]

class Head:
    def __new__(cls, most_fields: int = 100) -> Self: ...

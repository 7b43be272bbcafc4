from typing import Self

class Head:
    def __new__(cls, most_fields: int = 100) -> Self: ...

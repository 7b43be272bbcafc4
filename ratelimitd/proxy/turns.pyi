from collections.abc import Callable
from typing import Any, final

@final
class Turns:
    def __init__(self, call_soon: Callable[[Callable[[], None]], Any]) -> None: ...

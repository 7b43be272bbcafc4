import msgspec

METHODS: frozenset[bytes]

class RequestHead(msgspec.Struct, frozen=True):
    method: bytes
    target: bytes
    minor: int
    fields: tuple[tuple[bytes, bytes], ...]
    forwarded: tuple[tuple[bytes, bytes], ...]
    content_length: int | None
    chunked: bool
    keep_alive: bool
    end: int

class ResponseHead(msgspec.Struct, frozen=True):
    status: int
    minor: int
    fields: tuple[tuple[bytes, bytes], ...]
    forwarded: tuple[tuple[bytes, bytes], ...]
    content_length: int | None
    chunked: bool
    keep_alive: bool
    end: int

class Head:
    def __init__(self, most_fields: int = 100) -> None: ...

def head_end(data: bytes, start: int = 0, resume: int = 0) -> tuple[int, int]: ...
def read_request(data: bytes, most_fields: int = 100, most_target: int = 8192) -> RequestHead | None: ...
def read_response(data: bytes, most_fields: int = 100) -> ResponseHead | None: ...

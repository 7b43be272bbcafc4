from ratelimitd.http.head import Head
from ratelimitd.http.matching import RequestText

def read_request(
    data: bytes, most_fields: int, head_bound: int, target_bound: int
) -> tuple[Head, RequestText]: ...
def believed_values(head: Head, name: bytes | None) -> bytes | None: ...

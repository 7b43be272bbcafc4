from ratelimitd.config.model import Headers

class Forwarding:
    def __init__(
        self, headers: Headers, believed: str, key_names: tuple[bytes, ...], seed: bytes
    ) -> None: ...
    def peer_lines(self, peer: bytes, scheme: bytes) -> bytes: ...

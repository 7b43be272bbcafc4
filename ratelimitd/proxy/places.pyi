from ratelimitd.limits.inflight import InFlight

class Places:
    def __init__(self, inflight: InFlight, key: int, most: int) -> None: ...

from typing import Self, final

from ratelimitd.limits.addresses import Ipv4Ranges
from ratelimitd.limits.charges import Client

@final
class PlainClients:
    def __new__(cls, trusted: Ipv4Ranges, allowed: Ipv4Ranges, denied: Ipv4Ranges, prefix: int) -> Self: ...
    def named(self, values: bytes) -> Client | None: ...

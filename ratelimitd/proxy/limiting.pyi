# Types of the compiled module, checked against it by mypy.stubtest.

from ratelimitd.fleet.leases import Waiter
from ratelimitd.proxy.upload import Upload

class Limiting(Upload):
    def store_answered(self, waiter: Waiter) -> None: ...

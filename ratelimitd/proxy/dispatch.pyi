from asyncio import AbstractEventLoop

from ratelimitd.config import model
from ratelimitd.proxy.balancing import Balancer
from ratelimitd.proxy.deadlines import Wheel
from ratelimitd.proxy.dial import Dialer
from ratelimitd.proxy.places import Places
from ratelimitd.proxy.upstream import Upstream

class Dispatcher(Upstream):
    def __init__(
        self,
        config: model.Upstream,
        balancer: Balancer,
        places: Places | None,
        wheel: Wheel,
        loop: AbstractEventLoop,
        dial: Dialer,
        replaces_host: bool,
        duration_slot: int,
    ) -> None: ...

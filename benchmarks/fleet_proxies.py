"""What is compared in `bench-fleet`, each as one worker with the three limits of `bench-quick`.

ratelimitd counts in its own memory (twice, to know how equal two equal programs are here) or in Redis; nginx
asks Redis for each request, in Lua with Debian's modules: a script held by Redis, one round trip, connections
kept. nginx, and one of those with Redis, take from X-Forwarded-For who asks.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.proxies import Served, Starter, nginx_with, ratelimitd
from tests.servers import LOOPBACK

MEMORY: Final = "memory"
MEMORY_AGAIN: Final = "memory again"
REDIS: Final = "redis"
REDIS_TRUSTED: Final = "redis, behind a proxy"
NGINX: Final = "nginx + Lua"
_HERE: Final = Path(__file__).parent
_MODULES: Final = Path("/usr/lib/nginx/modules")


def starters(redis_port: int) -> Mapping[str, Starter]:
    store = f"redis://{LOOPBACK}:{redis_port}"
    return {
        MEMORY: ratelimitd,
        MEMORY_AGAIN: ratelimitd,
        REDIS: functools.partial(ratelimitd, store=store),
        REDIS_TRUSTED: functools.partial(
            ratelimitd, store=f'{store}\nstore_options: {{prefix: "trusted:"}}', trusted=LOOPBACK
        ),
        NGINX: functools.partial(_nginx_lua, redis_port=redis_port),
    }


def _nginx_lua(directory: Path, origin: int, redis_port: int) -> Served:
    modules = [_MODULES / "ndk_http_module.so", _MODULES / "ngx_http_lua_module.so"]
    return nginx_with(
        directory,
        origin,
        main="".join(f"load_module {module};\n" for module in modules),
        http=f"""
    set_real_ip_from {LOOPBACK}; real_ip_header X-Forwarded-For;
    lua_package_path "{_HERE}/?.lua;;";
    init_by_lua_block {{ require("redis_limit").open({redis_port}, "{_HERE}/sliding_window.lua") }}""",
        location='access_by_lua_block { require("redis_limit").access() }',
    )

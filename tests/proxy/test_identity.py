"""Who is behind a trusted proxy is the same client, whichever way he is found."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.config.model import Clients
from ratelimitd.limits.charges import Client
from ratelimitd.limits.plain_clients import PlainClients
from ratelimitd.proxy.identity import Identify

PROXY = "10.0.0.1"
CLIENTS = Clients(
    trusted_proxies=("10.0.0.0/8",),
    allow=("192.0.2.0/25",),
    deny=("198.51.100.7", "192.0.2.64/26"),
    ipv4_prefix=24,
)
IDENTIFY = Identify(CLIENTS, bytes(16))
ENTRIES = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=4, network="192.0.2.0/24").map(str),
    st.ip_addresses(v=4, network="10.0.0.0/30").map(str),
    st.ip_addresses(v=6).map(str),
    st.sampled_from(["", "unknown", "192.0.2.01", "192.0.2.1:80", "198.51.100.7"]),
)
SPACES = st.text(" \t", max_size=2)


def told(client: Client) -> tuple[str, bytes, bool, bool]:
    return client.address, client.key_bytes, client.allowed, client.denied


@given(st.lists(st.tuples(SPACES, ENTRIES, SPACES).map("".join), min_size=1, max_size=4))
def test_both_ways_find_the_same_client(entries: list[str]) -> None:
    """Invariant: who is found by his plain address is who the whole walk through the field finds."""
    values = ",".join(entries).encode()
    found = IDENTIFY.plain.named(values)
    if found is not None:
        assert told(found) == told(IDENTIFY.forwarded_client(PROXY, values))
        assert IDENTIFY.plain.named(values) is found
    else:
        last = entries[-1].strip(" \t")
        assert (
            last.startswith("10.0.0.")
            or last.count(".") != 3
            or not last[-1].isdigit()
            or ":" in last
            or (last == "192.0.2.01")
        )


def test_one_place_is_enough_for_all_that_fall_into_it() -> None:
    networks = IDENTIFY.plain
    for number in range(20_000):
        address = f"203.{number >> 8}.{number & 255}.1"
        found = networks.named(address.encode())
        assert found is not None
        assert found.address == address
    assert isinstance(networks, PlainClients)

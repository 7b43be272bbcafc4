# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""One web server, as a worker sees it: how it is doing, and what is in flight there.

Its idle connections lie here, the one used last on top. Which server is asked is `upstream`'s business.
"""

from libc.stdint cimport int64_t


cdef class Server:
    def __init__(self, address, int64_t[::1] slots, int first_code_slot, int in_flight_slot):
        self.url = address.url
        self.address = address
        self.idle = []
        self.slots = &slots[0]
        self.first_code_slot = first_code_slot
        self.in_flight_slot = in_flight_slot
        self.host_line = b"Host: %b\r\n" % host_of(address)

    cdef void took(self, int change) noexcept:
        self.in_flight += change
        self.slots[self.in_flight_slot] += change


def host_of(address) -> bytes:
    """The Host value by which a server is asked when the client's is not preserved."""
    if address.unix_path:
        return b"localhost"
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}".encode("ascii")

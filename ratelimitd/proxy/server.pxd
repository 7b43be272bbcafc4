"""One web server, as a worker sees it; `server.pyx` says more."""

from libc.stdint cimport int64_t, uint64_t


cdef class Server:
    cdef:
        readonly str url
        readonly object address  # config.model.Server
        readonly list idle
        readonly int in_flight
        readonly int failures
        readonly uint64_t ejected_until
        bytes host_line
        int64_t* slots
        int first_code_slot
        int in_flight_slot

    cdef void took(self, int change) noexcept

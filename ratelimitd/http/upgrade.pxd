"""Offers of another protocol and their acceptance; `upgrade.pyx` says what is one."""

from ratelimitd.http.head cimport Head


cdef bytes offered_protocols(Head head)
cdef bint offers_only_http2(Head head)
cdef bytes taken_protocols(Head head, bytes offered)
cdef bytes upgrade_lines(bytes protocols)

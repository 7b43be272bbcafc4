"""Questions to a parsed head; `request.pyx` has the answers."""

from ratelimitd.http.head cimport Head


cdef bint asks_for_upgrade(Head head)
cdef bint tells_rate_limit(Head head) noexcept
cdef bint accepts_text(Head head)
cdef bint needs_care(Head head) noexcept
cdef bytes origin_target(Head head)
cdef bytes encoded_target(Head head)
cdef bytes encoded_line(Head head)
cdef bytes origin_line(Head head)
cdef object request_text(Head head, bytes method)
cpdef bytes believed_values(Head head, bytes name)

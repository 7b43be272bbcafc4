"""Questions to a parsed head; `request.pyx` has the answers."""

from ratelimitd.http.head cimport Head
from ratelimitd.http.matching cimport RequestText


cdef bint tells_rate_limit(Head head) noexcept
cdef bint takes_trailers(Head head)
cdef bint accepts_text(Head head)
cdef bint needs_care(Head head) noexcept
cdef bytes origin_target(Head head)
cdef bytes encoded_target(Head head)
cdef bytes encoded_line(Head head)
cdef bytes origin_line(Head head)
cdef RequestText request_text(Head head, bytes method)
cpdef bytes believed_values(Head head, bytes name)

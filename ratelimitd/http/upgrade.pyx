# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Upgrade (RFC 9110, 7.8): which protocols a request offers to switch to, and which one a 101 takes up.

Both fields belong to one connection only and are made anew for the next. What is no protocol name is not
offered. Neither is h2c: HTTP/2 without TLS is declined by going on with HTTP/1.1, since its requests would
pass unseen.
"""

import re

from ratelimitd.http.head cimport Head

cdef bytes TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
cdef object PROTOCOL = re.compile(TOKEN + rb"(?:/" + TOKEN + rb")?")


cdef bytes offered_protocols(Head head):
    """What a request with the connection option `upgrade` offers besides h2c, as one list; None: nothing."""
    offers = [each for each in _elements(head) if PROTOCOL.fullmatch(each) and each.lower() != b"h2c"]
    return b", ".join(offers) or None


cdef bint offers_only_http2(Head head):
    """Whether nothing is offered besides h2c, nor anything that others could take for an offer."""
    return all([each.lower() == b"h2c" for each in _elements(head)])


cdef bytes taken_protocols(Head head, bytes offered):
    """What a 101 switches to, as one list; None when it names nothing, or something that was not offered."""
    taken = _elements(head)
    if head.minor == 0 or not {each.lower() for each in taken} <= set(offered.lower().split(b", ")):
        return None
    return b", ".join(taken) or None


cdef bytes upgrade_lines(bytes protocols):
    return b"Connection: Upgrade\r\nUpgrade: %b\r\n" % protocols


cdef list _elements(Head head):
    """The elements of all Upgrade fields, in their order."""
    cdef int at = head.find(b"upgrade")
    elements = []
    while at >= 0:
        elements += [element for each in head.value(at).split(b",") if (element := each.strip(b" \t"))]
        at = head.find_next(b"upgrade", at)
    return elements

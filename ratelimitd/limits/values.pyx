# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""What a limit counts by where it is neither the client nor one field: cookies, queries, hosts, paths,
methods, and lists of all kinds.

A value that is there twice is one that two readers could take differently: the request is refused, since a
client that could choose which one is counted would have as many limits as it likes.
"""

from ratelimitd.http.head cimport Head
from ratelimitd.http.matching cimport RequestText
from ratelimitd.http.request cimport origin_target

from urllib.parse import unquote_to_bytes

from ratelimitd.limits.keys import KINDS


class Twice(Exception):
    """The value is there more than once."""


cpdef bytes tail(object limit, Head head, bytes client, RequestText text):
    """The material of a request's key under `limit` (policy.LimitRules) without the salt: its kind and value.
    Empty: a value is missing and `missing` is `skip` or `deny`; None: one is there twice."""
    cdef list parts = []
    try:
        for kind, name in limit.parts:
            value = part_value(kind, name, head, text)
            if not value and kind != "client" and kind != "global":
                if limit.missing != "client":
                    return b""
                kind = "client"
            if kind == "client":
                value = client
            parts.append((KINDS[kind], value))
    except Twice:
        return None
    if len(parts) == 1:
        return parts[0][0] + parts[0][1]
    return b"l" + b"".join([kind + len(value).to_bytes(4, "little") + value for kind, value in parts])


cdef bytes part_value(str kind, str name, Head head, RequestText text):
    if kind == "header":
        return _only(field_values(head, name.lower().encode("latin-1")))
    if kind == "cookie":
        return _only(cookies(head, name.encode("utf-8")))
    if kind == "query":
        return _only(parameters(origin_target(head), name.encode("utf-8")))
    if kind == "host":
        return text.host.encode("latin-1")
    if kind == "path":
        return text.limit_path().encode("utf-8")
    if kind == "method":
        return head.method()
    return b""


cdef bytes _only(list found):
    if len(found) > 1:
        raise Twice
    return found[0] if found else b""


cdef list field_values(Head head, bytes name):
    cdef int at = head.find(name)
    found = []
    while at >= 0:
        found.append(head.value(at))
        at = head.find_next(name, at)
    return found


cdef list cookies(Head head, bytes name):
    """The values of a cookie (RFC 6265, 5.4), over all Cookie fields."""
    found = []
    for field in field_values(head, b"cookie"):
        for pair in field.split(b";"):
            key, equals, value = pair.partition(b"=")
            if equals and key.strip(b" \t") == name:
                found.append(value.strip(b" \t"))
    return found


cdef list parameters(bytes target, bytes name):
    """The values of a query's parameter, decoded as forms are."""
    found = []
    for pair in target.partition(b"?")[2].split(b"&"):
        key, _, value = pair.partition(b"=")
        if unquote_to_bytes(key.replace(b"+", b" ")) == name:
            found.append(unquote_to_bytes(value.replace(b"+", b" ")))
    return found

"""The methods that are served: IANA's registry and llhttp's list.

Without PRI, which no client may send (RFC 9113, 3.4). CONNECT is known, and refused where it is asked for.
What the second reader does not know is shown to it as POST, which is framed in the same way.
"""

from __future__ import annotations

from typing import Final

UNKNOWN_TO_LLHTTP: Final = frozenset(
    b"BASELINE-CONTROL CHECKIN LABEL MKREDIRECTREF MKWORKSPACE ORDERPATCH UNCHECKOUT UPDATE "
    b"UPDATEREDIRECTREF VERSION-CONTROL".split()
)
METHODS: Final = UNKNOWN_TO_LLHTTP | frozenset(
    b"DELETE GET HEAD POST PUT CONNECT OPTIONS TRACE COPY LOCK MKCOL MOVE PROPFIND PROPPATCH SEARCH UNLOCK "
    b"BIND REBIND UNBIND ACL REPORT MKACTIVITY CHECKOUT MERGE M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE PATCH "
    b"PURGE MKCALENDAR LINK UNLINK SOURCE QUERY".split()
)

"""llhttp as a witness: told of the end of a message when, and only when, it is there.

What the second reader refuses is seen in the daemon (tests/proxy/test_client.py): a request that it
reads in another way than our own parser does gets 400, and never one of another client.
"""

from __future__ import annotations

from ratelimitd.http.second_reader import Witness


def test_a_witness_has_seen_nothing_yet() -> None:
    witness = Witness()
    assert not witness.complete
    witness.on_message_complete()
    assert witness.complete

"""What a server of the store means by an error, for whoever has to do something about it.

A reply of Redis begins with a word that tells its kind; what it says is kept, in parentheses. Kinds that are
not known here are told as they came.
"""

from __future__ import annotations

from typing import Final

# What the reply contains, and what that means and what to do. The first that fits counts.
_MEANINGS: Final = {
    "without any password": "has no password, and one is configured: set one there (an ACL user, or "
    "requirepass), or remove store_options.password_file",
    "WRONGPASS": "refuses the user or the password: correct store_options.username and password_file",
    "NOAUTH": "asks for a password: name a file that has it in store_options.password_file",
    "NOPERM": "does not allow its user what is needed: on the keys of store_options.prefix `+evalsha +eval "
    "+get +set +time`, and `+ping +info`, for a cluster also `+cluster|slots +cluster|info`",
    "LOADING": "is still loading its data: it is asked again until it is done",
    "READONLY": "is a replica, which takes no writes: name its master, or let redis+sentinel:// find it",
    "MASTERDOWN": "is a replica that has lost its master: name the master that is in charge now",
    "OOM": "is full: give it more maxmemory, or a maxmemory-policy that evicts",
    "MISCONF": "refuses writes because it could not save its data: its own log has the reason",
    "NOREPLICAS": "refuses writes because too few replicas follow it: see its min-replicas-to-write",
    "CLUSTERDOWN": "says that its cluster is not OK: a part of the keys has no master (CLUSTER INFO)",
    "MOVED": "is a node of a cluster, and another one has this key: its map is read again if "
    "the URL begins with redis+cluster://",
    "ASK": "is a node of a cluster, and another node is about to have this key",
    "SELECT is not allowed in cluster mode": "is a node of a cluster, which has one database: write "
    "redis+cluster:// and no number",
    "DB index is out of range": "has no database of that number: see its setting `databases`",
    "cluster support disabled": "is no node of a cluster: write redis:// for redis+cluster://",
    "No such master": "is a Sentinel that does not know this name: it stands in its line `sentinel monitor`",
    "max number of clients": "has no room for another connection: raise its maxclients",
    "DENIED": "is in protected mode and talks to its own host only: give it a password, and a bind address",
    "NOSCRIPT": "has lost the script",
    "unknown command": "does not know a command that is needed: it must be Redis 6.2, Valkey 8, or newer",
}


def meaning(reply: object) -> str:
    """Continues "the store at HOST:PORT"."""
    text = str(reply)
    for sign, words in _MEANINGS.items():
        if text.startswith(sign) or (not sign.isupper() and sign in text):
            return f"{words} ({text})"
    return f"answers {text}"

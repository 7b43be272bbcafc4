from ratelimitd.http.head import Head
from ratelimitd.http.matching import RequestText
from ratelimitd.limits.keys import KINDS as KINDS
from ratelimitd.limits.policy import LimitRules

class Twice(Exception): ...

def tail(limit: LimitRules, head: Head, client: bytes, text: RequestText | None) -> bytes | None: ...

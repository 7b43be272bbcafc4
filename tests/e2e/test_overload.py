"""A real overload: one worker that is held to a part of a CPU, and twice as many requests as it can proxy.

What passes stays near what the worker can do, the critical class passes whole, the level returns to 0, and
stopping the sampler in the midst of it all ends shedding.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.daemon import Daemon
from tests.load import Wrk, wrk
from tests.servers import Nginx, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timing]

"""`python -m ratelimitd` is the command `ratelimitd`."""

import sys

from ratelimitd.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""``python -m mixexperts``: the command line."""

import sys

from mixexperts.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m overbar.cli`, which is `overbar`."""

import sys

from overbar.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""``python -m elk_coordinator`` is ``elk``."""

from __future__ import annotations

import sys

from elk_coordinator.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

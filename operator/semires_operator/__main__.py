"""`python -m semires_operator`."""

from __future__ import annotations

import os
import sys


def start() -> int:
    """Run the operator in this process; its exit code."""
    # Where it is installed, kopf imports the official client for two of its types: 10 MB that nobody here needs.
    sys.modules["kubernetes"] = None  # type: ignore[assignment]
    from semires_operator.main import main

    return main(os.environ)


if __name__ == "__main__":
    sys.exit(start())

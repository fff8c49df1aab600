"""`python -m semires_operator`."""

from __future__ import annotations

import os
import sys

from semires_operator.main import main

if __name__ == "__main__":
    sys.exit(main(os.environ))

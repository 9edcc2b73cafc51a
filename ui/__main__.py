"""`python -m ui` is `zhiwen`."""

import sys

from ui.cli import main

sys.exit(main())

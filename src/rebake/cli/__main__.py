"""`python -m rebake.cli` is `rebake`."""

import sys

from rebake.cli import main

sys.exit(main())

"""``python -m morphnet`` is the console script."""

import sys

from morphnet.cli import main

sys.exit(main())

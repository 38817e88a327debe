"""`python -m dpjax` is the command `dpjax`."""

import sys

from dpjax.cli.main import main

sys.exit(main())

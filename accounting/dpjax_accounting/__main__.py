"""`python -m dpjax_accounting` is the command `dpjax_accounting`."""

import sys

from dpjax_accounting.cli import main

sys.exit(main())

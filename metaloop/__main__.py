"""`python -m metaloop`: the command line."""

from .cli import main

raise SystemExit(main())

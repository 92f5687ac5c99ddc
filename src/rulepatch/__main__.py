"""`python -m rulepatch` is the command line."""

from rulepatch.cli import main

main()

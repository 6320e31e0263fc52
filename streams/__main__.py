"""`python -m streams`: the same as the command `streams`."""

from streams.cli import main

main()

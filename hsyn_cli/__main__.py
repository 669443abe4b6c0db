"""`python -m hsyn_cli`, for torchrun."""

from hsyn_cli.cli import main

main()

"""`python -m jbdot` is the command `jbdot`."""

from jbdot.command.cli import main

main()

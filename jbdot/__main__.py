"""`python -m jbdot` is the command `jbdot`."""

from jbdot.cli import main

main()

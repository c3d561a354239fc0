"""The command `jbdot`."""

"""Run the stack on this machine, and lock the versions that get deployed."""

"""The command line and the one-process wiring: it alone imports all four services."""

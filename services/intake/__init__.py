"""Intake owns the case: who asked what, when it is due, how it ended."""

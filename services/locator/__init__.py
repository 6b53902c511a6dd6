"""Where is this person's data? Owns orders, tasks and receipts, and alone speaks to the systems."""

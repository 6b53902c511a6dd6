"""Which package is handed over, and what lies in it? Owns packages, review and the vault that they lie in."""

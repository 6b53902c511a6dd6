"""The only public door: it owns sessions, keys and limits, and no case."""

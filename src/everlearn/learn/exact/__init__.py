"""The exact memory: integer sums, and the heads that follow from them (docs: the exact memory)."""

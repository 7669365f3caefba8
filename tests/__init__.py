"""A package of its own name, because libraries were seen to install a `tests` of theirs."""

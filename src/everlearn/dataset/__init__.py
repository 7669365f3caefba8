"""Snapshots, group-safe splits, differences, class balance, exports."""

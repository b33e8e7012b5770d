"""Planned demonstrations and comparisons; one file each."""

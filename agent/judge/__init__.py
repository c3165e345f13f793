"""Judging sketches: what has changed between two of them, and whether that is noise."""

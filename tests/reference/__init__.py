"""Readable versions of the compiled sketches, exact and slow: what tests compare with."""

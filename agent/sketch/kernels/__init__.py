"""Compiled code of the sketches: one algorithm per file, over addresses that the caller owns."""

"""Sketches: fixed-size summaries of columns that merge, with stated error bounds.

cells.py     record layouts, and the pages that hold cells
delta.py     Block -> groups of rows and their cells; a cut packs them for a chunk
arena.py     the memory that a delta's kernels hand out
packed.py    many cells as compact bytes: what a chunk holds
merge.py     packed cells -> cells
views.py     what a cell says: counts, moments, quantiles, distinct, top values
codec.py     packed cells <-> versioned, checksummed bytes
hash.py      the fixed hash behind everything that merges
histogram.py, moments.py, cardinality.py, heavy_hitters.py   the arithmetic of the views
kernels/     compiled code
"""

"""Sketches: fixed-size summaries of columns that merge, with stated error bounds.

cells.py     record layouts, and the pages that hold cells
update.py    Block -> cells, one compiled call per block
merge.py     cells -> cells
views.py     what a cell says: counts, moments, quantiles, distinct, top values
codec.py     cells <-> versioned, checksummed bytes
hash.py      the fixed hash behind everything that merges
histogram.py, moments.py, cardinality.py, heavy_hitters.py   the arithmetic of the views
kernels/     compiled code
"""

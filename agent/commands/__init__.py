"""Commands that look, rather than run: one module each, and what may be written on the command line."""

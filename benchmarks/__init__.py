"""One question per file: `python -m benchmarks.NAME --json`. Figures are of the machine they ran on."""

"""Other tools at the same job, from the same topic: `python -m benchmarks.peers --json`.

The job, of every event: the distribution of each of its 12 numbers (good enough for quantiles within
about 2 %), the number of distinct sessions and countries, rows by model. Peers do it over the whole
topic. The agent does it per model, version and minute, exports every second, and checks the
checksum of every batch; nobody else is asked to. All answers are compared with what was produced.

Each peer is a module that runs as a process of its own in its own virtual environment:

    python -m benchmarks.peers.setup            make the environments, once, into .cache/
    python -m benchmarks.peers                  compare

`meter.py` is what the peers share; it and this package need the standard library only.
"""

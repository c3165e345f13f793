"""Chunks into base. The only stage that decides: kind, admission, overflow, window, seal.

    base.py       Fold: applies a chunk or a tick, in order; owns everything below
    admission.py  budgets; overflow streams that keep their parents
    kinds.py      what a column is
    watermarks.py event-time clocks of the partitions, which windows may seal
    streams.py    what is known of one stream: totals, open windows, sealed profiles
    store.py      the cells, and merging a chunk's cells into them
    register.py   streams and columns as they come, get a kind, and end
    sealing.py    an open window becomes profiles
    profile.py    one stream over one sealed window, as mergeable bytes
    costs.py      series and bytes of a stream and of a column; `inferometer plan` uses it too
    series.py     own start times, zeros, ends, resends
    histograms.py cumulative histograms at a sticky scale
    head.py       a wide cell as exports read it
    snapshot.py   base -> points
    shown.py      which texts leave the process, by name or hashed
    account.py    what the fold says of itself
    effects.py    what an input brought about
    summary.py    base -> the documents of `/v1/state` and `replay`
    persist.py    base -> bytes, and back: what a snapshot on the volume holds
                  (persist_streams.py one stream of it, persist_records.py what is written of that)

Base is a function of the inputs alone, in order: chunks, ticks, forgotten partitions. Time is an argument
of each; no clock is read here.
"""

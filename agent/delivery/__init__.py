"""From frozen deltas to what counts: cut, chunk, fold, export, commit.

    cut.py      the one task that cuts; what it does with a chunk is its mode's business
    outcome.py  what a cut brought about, and what the loop remembers of it
    alignment.py  which partitions wait for slower ones in event time
    export.py   the one task that exports
    mode.py     what a mode must do
    memory.py   fold at once; offsets follow the collector's acceptance (`commit.py`)
    chained.py  chunks that count by the group's offsets: volume mode, and fleet mode (`agent/fleet`)
    kept.py     a fold on a volume: volume mode, and the aggregator (`agent/aggregate`)
    volume.py   journal, commit, fold
    assign.py   volume mode: what the group's offsets say about the journal, and the other way round

Invariants of all modes
 1. One task cuts, one exports, one commits. Others only ask them; none waits for another, so neither a
    slow collector nor a coordinator that is away holds up what is not its own.
 2. A collector that is slow or away delays no cut: the base keeps accumulating in place.
 3. Offsets are committed only under the epoch in which their rows were read.
"""

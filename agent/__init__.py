"""inferometer: a streaming inference-telemetry agent.

The flow, and the folder or module that owns each step. A stage imports the shared modules (`types`,
`config`, `errors`), never a neighbour's insides; `pipeline` alone knows them all.

    Kafka, files                                          model servers publish inference events
        |  records: value, key, headers, timestamp, offset
        v
    ingest/    bytes in; group membership, the fence, positions, back-pressure, dead letters
        |
        v      one kernel thread per group of partitions
    decode/    bytes -> rows -> Block (columnar; drops counted by reason)
        |
        v
    sketch/    Block -> Delta: cells of flat arrays, one per (stream, window, column, JSON type)
        |
        |      cut (by offset): the Delta is frozen into a Chunk                        state/
        v
    fold/      Chunk -> base: kinds, admission, overflow, windows, watermarks, seal -> Profile
        |
        v      one fold thread, `judging`
    judge/     Profile -> Verdict: baselines, contracts, drift, change detection, one alarm for one break
        |
        v      only folded state leaves the process, and what was judged from it
    emit/      OTLP metrics, traces and log events, Prometheus, console
    respond/   Verdict -> webhook, Kafka topic, Alertmanager; `telling` asks the fold for what is untold
    web/       /livez /readyz /metrics /v1/state
    commands/  what `inferometer` does besides running: check, plan, profile, backtest, inventory

A chunk counts when the consumer group's committed offsets cover it. `delivery/` has the modes: in memory
mode the fold comes first, and the commit follows the collector's acceptance of an export that holds the
chunk; in volume mode the chunk is in a journal before the commit. A fleet cuts the flow in two at the
chunk: agents write it to a topic (`fleet/`), `inferometer aggregate` reads what counts and goes on from
fold/ (`aggregate/`).
"""

__version__ = "0.1.0"

"""From a verdict to somebody who acts on it. The agent signals; it holds no cluster's credentials.

    standing.py      what is known of verdicts at one entry of the fold: states, open alarms, untold ones
    event.py         a verdict as a CloudEvent: what every action sends
    action.py        one action: which verdicts, held back, queued, limited, tried again, accounted for
    webhook.py       HTTP POST, signed as Standard Webhooks ask; `signing.py`
    kafka_topic.py   a record keyed by model
    alertmanager.py  alerts that are repeated while they fire
    audit.py         one line for each outcome, in a bounded file
    responder.py     all actions of a configuration

Invariants
 1. Nothing here is waited for by judging or consumption: offers never block, queues are bounded, and what
    finds one full is dropped and counted.
 2. A verdict has the same id whenever it is told, so a receiver that keeps ids acts once.
 3. Every verdict that an action takes has one outcome, counted and written to the audit trail.
"""

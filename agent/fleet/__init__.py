"""The agents' half of fleet mode: chunks go to the chunk topic, and count by the group's offsets.

    chunk --split--> one part a shard --records--> chunk topic (durable) --> fenced commit (counts)

The aggregators' half is `agent/aggregate`.
"""

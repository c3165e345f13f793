"""The aggregator: folds what a fleet of agents wrote, each effective chunk once and in order.

chunk topic, one shard                        group of the agents
    |  parts, manifests                           |  heads: committed offsets and metadata
    v                                             v
assembly    whole chunks, in bounded memory   ->  accept    which count, in which order
                                                  |
                                                  v
state/ journal -> fold/ -> emit/, web/     as in an agent in volume mode
"""

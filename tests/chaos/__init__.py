"""Random faults on a running pipeline; what came out held against an independent account.

faults.py     the table of faults
rounds.py     one round: produce, one fault, wait until quiet, hold the totals against the account
life.py       a topic, a group and its agents, through some rounds: volume mode, memory mode
ledger.py     what was produced and acknowledged, row by row
heard.py      what the collector accepted, series by series
seams.py      the agent with a clock, a disk and a life that a test can take away
__main__.py   `python -m tests.chaos --rounds N --seed S --json`
"""

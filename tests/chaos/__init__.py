"""Random faults on a running pipeline; what came out held against an independent account.

faults.py       the table of faults
faults_*.py     what each does: to agents, brokers, the collector, the topic and the group's offsets
rounds.py       one round: produce, one fault, wait until quiet, hold the totals against the account
life.py         a topic, a group and its agents, through some rounds of one mode
group.py        what the coordinator says, and what a tool may do to the group's offsets
ledger.py       what was produced and acknowledged, row by row
heard.py        what the collector accepted, series by series
verdict.py      the one against the other
seams.py        the agent with a clock, a disk and a life that a test can take away
page.py         docs/chaos.md from the documents of long runs
__main__.py     `python -m tests.chaos --rounds N --seed S --json`
"""

"""What `scripts/dev/torture.py` puts a sandbox through, from outside: over HTTP and by signals.

arena.py     a sandbox apart from the user's, on a disk and under a clock of its own
clock.c      that clock
crowd.py     clients that never stop, and the ledger of what they were promised
deeds.py     pipelines: brought up to date, asked for twice at once, deleted on their way
faults.py    what is done in a round, by name
checks.py    what must be true again when a round is over
"""

"""What `scripts/bench.py` measures: a module each for the load, the servers and every section.

A section has `measure(place)`, one repeat's figures by key, and `table(medians)`, what a
person reads of them.
"""

"""S3 on this machine: SeaweedFS, and a gate of ours in front of it.

process.py    the process that all of it runs in
seaweed.py    SeaweedFS below it: keys, ports, start and stop
certificate.py   by which its parts know each other
proof.py      that there is no way in but ours, asked at every start
gate.py       requests in, requests out; what is refused on the way
rules.py      which operations, headers and keys the store does as S3 does
bodies.py     bodies that are held to what was signed, while they stream
listing.py    listings in S3's order
forms.py      uploads by a browser's form
"""

"""Everything a client can do with generations: start, find, list, stop, delete and follow them.

May import `journal`, `dialects`, `cloud`, `domain` and `runtime`; never `upstream` or `engine`.
"""

"""The worker: it claims a generation, makes the upstream call, and commits what came of it.

May use `upstream`, `journal`, `dialects`, `cloud`, `domain` and `runtime`.
"""

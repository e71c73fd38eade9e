"""The worker: it claims a generation, makes the upstream call, and commits the answer.

May import `upstream`, `journal`, `dialects`, `cloud`, `domain` and `runtime`.
"""

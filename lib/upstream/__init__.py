"""The call to an upstream: one HTTP exchange that can be cut at any moment.

May import `dialects`, `cloud`, `domain` and `runtime`. Nothing that serves a client may import this package.
"""

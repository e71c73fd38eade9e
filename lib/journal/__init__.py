"""The durable log of an upstream's events: its format, its codec and its only writer.

May import `cloud`, `domain` and `runtime`.
"""

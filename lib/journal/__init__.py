"""The log of an upstream's events: its format and codec, and its one writer.

May use `cloud`, `domain` and `runtime`.
"""

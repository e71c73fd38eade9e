"""What each model API means: one file an API, one protocol for all of them. Pure: nothing here waits or does I/O.

May use `domain` and `runtime`.
"""

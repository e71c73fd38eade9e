"""The client protocols, one file each: how a request is read and how an answer is said.

May use `serving`, `dialects`, `domain` and `runtime`.
"""

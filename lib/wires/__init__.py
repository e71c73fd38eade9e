"""The client protocols, one module each: how requests are read and answers are written.

May import `serving`, `dialects`, `domain` and `runtime`.
"""

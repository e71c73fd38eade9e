"""The client protocols, a module or a folder each: how requests are read and answers are written.

May import `serving`, `dialects`, `domain` and `runtime`.
"""

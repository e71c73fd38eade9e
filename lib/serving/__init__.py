"""What a client can do: start, find, list, stop and delete generations, and follow them.

May use `journal`, `dialects`, `cloud`, `domain` and `runtime`; never `upstream` or `engine`.
"""

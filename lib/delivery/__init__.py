"""What follows an answer's end: the operator's webhook is called, and the user's devices are told.

The worker has it beside `engine`: each request is one try of one delivery, by a queue of its own. Nothing here may
change an answer, or delay one.

May import `upstream`, `dialects`, `cloud`, `domain` and `runtime`. Nothing that serves a client may import this
package.
"""

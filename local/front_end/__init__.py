"""A front end for a function, with the limits of the one that stands before every Cloud Run service.

A function that is reached directly never sees a request refused for its size, a response cut for its length, a
connection closed for its silence, or a token without its signature. Everything else passes: each byte of a response as
soon as it comes, and a client that leaves closes the function's connection too.

    python -m local.front_end --target http://HOST:PORT [--port P] [--limits JSON]
"""

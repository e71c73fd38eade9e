"""Holdfast: streaming LLM answers that outlive the connection.

Arrows point inwards. `web` and `worker` are the two doors; nothing that serves a client may import `upstream`.
"""

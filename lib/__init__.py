"""Holdfast: streaming LLM answers that outlive the connection.

A room is a folder, and says in its docstring what it is for and what it may use. `tests/unit/test_architecture.py`
holds them to it.
"""

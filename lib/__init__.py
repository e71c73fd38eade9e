"""Holdfast: streaming LLM answers that outlive the connection.

Each package says in its docstring what it is for and which other packages it may import.
`tests/unit/test_architecture.py` enforces this.
"""

"""Google Cloud: Firestore documents and listening, what is kept where, Cloud Tasks, tokens.

May use `domain` and `runtime`.
"""

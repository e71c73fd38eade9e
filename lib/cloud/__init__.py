"""Google Cloud: Firestore reads, commits and listen streams, the document layout, Cloud Tasks, token verification.

May import `domain` and `runtime`.
"""

"""The fault matrix: what the service promises, checked on the real local stack while its parts break."""

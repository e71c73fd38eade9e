"""A proxy in front of the Firestore emulator that makes it as strict, and as fallible, as Firestore.

The emulator needs no index, never fails, answers within a millisecond, takes any number of writes to one document, and
says of a missing document that it was deleted. A service that relies on any of this works here and fails in a real
project. Each strictness is off until `faults` switches it on; without any, all calls pass unchanged.

    python -m local.firestore_proxy --target HOST:PORT [--port P] [--http-port P] [--faults JSON]

What it does not imitate: indexes for listened-to queries, sums and averages, quotas.
"""

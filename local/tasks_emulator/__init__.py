"""An emulator of Cloud Tasks, for the local stack and the tests.

It exists because every generation goes through Cloud Tasks, and no published emulator implements OIDC tokens, back-off,
dispatch deadlines, throttling and names that can be used only once. It speaks gRPC to the unmodified `CloudTasksClient`
and HTTP to the worker; a side port serves the public keys of its tokens. It must not be more lenient than Cloud Tasks,
or a service could work here and fail there. It must not poll, because that would delay the first token. It must not
import anything of the service. All state is in memory.

The rules are those of the v2 reference (https://cloud.google.com/tasks/docs/reference/rpc/google.cloud.tasks.v2) unless
a docstring names another page. Known differences: a name stays used for the queue's whole life (really an hour to a
day); back-offs are kept to the microsecond (the reference truncates to seconds, though the default is 0.1 s); redirects
fail an attempt (they "may be followed"); zero in a queue's settings means the default; queue-level targets, OAuth
tokens and list filters are refused as unimplemented. Throttling, ramping up and delays are off unless `faults` switches
them on.
"""

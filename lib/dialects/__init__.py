"""What each model API means: one file an API, one protocol for all of them. Pure: nothing here waits or does I/O.

`protocol` says what a dialect is and how one is added, `steps` what events can mean. `folding`, `faults`,
`characters`, `payload` and `sse` are for every dialect; `completion` and `continuation` belong to `chat_completions`.
No other room knows a field of any API.

May use `domain` and `runtime`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lib.dialects.chat_completions import ChatCompletions
from lib.dialects.protocol import Dialect

DIALECTS: Mapping[str, Dialect] = MappingProxyType({dialect.name: dialect for dialect in (ChatCompletions(),)})

"""The model APIs: one module each, behind one protocol. Pure: nothing here may wait or do I/O.

`protocol` defines what a dialect is and how to add one, and `steps` what events can mean. `folding`, `faults`,
`characters`, `payload` and `sse` are shared by all dialects. `completion` and `continuation` belong to
`chat_completions`, `message_events`, `turn` and `prefill` to `messages`, `candidates` to `gemini`, and `output` to
`responses`. No other package may know fields of any API.

May import `domain` and `runtime`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lib.dialects.chat_completions import ChatCompletions
from lib.dialects.gemini import Gemini
from lib.dialects.messages import Messages
from lib.dialects.protocol import Dialect
from lib.dialects.responses import Responses

_ALL: tuple[Dialect, ...] = (ChatCompletions(), Messages(), Responses(), Gemini())
DIALECTS: Mapping[str, Dialect] = MappingProxyType({dialect.name: dialect for dialect in _ALL})

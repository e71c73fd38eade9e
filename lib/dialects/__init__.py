"""The model APIs: one folder each, behind one protocol. Pure: nothing here may wait or do I/O.

`protocol` defines what a dialect is and how to add one, `steps` what events can mean, and `conversation` what a request
is made of. What lies beside the folders is shared by all dialects. In a folder, `dialect` implements the protocol,
`request` writes a conversation as this API's request, and the others read events, fold them and continue answers. No
other package may know fields of any API.

May import `domain` and `runtime`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lib.dialects.chat_completions.dialect import ChatCompletions
from lib.dialects.gemini.dialect import Gemini
from lib.dialects.messages.dialect import Messages
from lib.dialects.protocol import Dialect
from lib.dialects.responses.dialect import Responses

_ALL: tuple[Dialect, ...] = (ChatCompletions(), Messages(), Responses(), Gemini())
DIALECTS: Mapping[str, Dialect] = MappingProxyType({dialect.name: dialect for dialect in _ALL})

"""Whether an answer was charged, once, for what its upstream served: judged from the accounts and the upstream's log.

Pure. A call that came to its end is charged what it said. Of one that broke off counts what was seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from chaos.dialects import text_of
from chaos.promise import Observation
from chaos.saved import Saved

CHARACTERS_A_TOKEN = 4


def about_the_bill(seen: Observation, last: Saved) -> Iterator[str]:
    """A sentence for each broken promise. Nothing is promised for what is not counted."""
    if not last.accounts or not last.ended:
        return
    charge = last.charge or {"inputTokens": 0, "outputTokens": 0}
    tokens = charge["inputTokens"] + charge["outputTokens"]
    for account in last.accounts:
        counted = {name: account.get(name, 0) for name in ("inputTokens", "outputTokens", "takenTokens", "answers")}
        sums = {
            "inputTokens": charge["inputTokens"],
            "outputTokens": charge["outputTokens"],
            "takenTokens": tokens,
            "answers": int(tokens > 0),
        }
        if counted != sums:
            yield f"expected each account to have what the answer took, once, {sums}, found {counted}"
    allowed = outputs(seen, last)
    if charge["outputTokens"] not in allowed:
        due = " or ".join(map(str, sorted(allowed)))
        yield (
            f"expected {due} tokens of output to be charged, found {charge['outputTokens']}, for an answer that is "
            f"{last.state} after {last.attempt} attempts"
        )
    # An attempt that is lost after the end of its call may have lost what the upstream said of the prompt.
    heard = last.attempt == 1 or seen.one_call
    if (
        heard
        and last.state == "completed"
        and seen.calls == 1
        and seen.billed
        and charge["inputTokens"] != seen.billed[0][0]
    ):
        yield f"expected {seen.billed[0][0]} tokens of input to be charged, found {charge['inputTokens']}"


def outputs(seen: Observation, last: Saved) -> set[int]:
    """What may be charged: of the last attempt what its call said, if it came to its end, or what was seen."""
    if last.state == "failed":
        return {0}
    events: Counter[int] = Counter()
    characters: Counter[int] = Counter()
    attempts = [1] * len(last.journal) if seen.one_call else last.attempts
    for attempt, frame in zip(attempts, last.journal, strict=True):
        text = text_of(seen.dialect, frame)
        events[attempt] += bool(text)
        characters[attempt] += len(text)
    each = {attempt: max(events[attempt], -(-characters[attempt] // CHARACTERS_A_TOKEN)) for attempt in events}
    before = sum(taken for attempt, taken in each.items() if attempt != max(each))
    return {before + each[max(each)] if each else 0, *(before + said for _, said in seen.billed)}

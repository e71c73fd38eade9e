"""What the demo upstream remembers of its calls."""

from __future__ import annotations

from array import array
from collections import OrderedDict, deque

from local.demo_delivery import Call
from local.demo_faults import Order
from local.demo_text import Json

_MAX_CALLS = 10_000
_MAX_REMEMBERED = 64 << 20
_MAX_RECORDS = 256


class CallLog:
    """The last calls, how often each seed's fault has occurred, and when recorded answers' tokens were written.

    The number of calls and the bytes of their requests are limited.
    """

    def __init__(self) -> None:
        self._calls: deque[tuple[Call, int]] = deque()
        self._size = 0
        self._strikes: OrderedDict[str, int] = OrderedDict()
        self._records: OrderedDict[str, array[int]] = OrderedDict()

    def add(self, call: Call, size: int) -> None:
        """Records a call whose request has `size` bytes, and drops the oldest ones if there are too many."""
        self._calls.append((call, size))
        self._size += size
        while len(self._calls) > _MAX_CALLS or (self._size > _MAX_REMEMBERED and len(self._calls) > 1):
            self._size -= self._calls.popleft()[1]

    def still_strikes(self, order: Order) -> bool:
        """Whether the fault applies to this call of the seed. Counts the call. `resume` has a count of its own."""
        if order.fault is None or order.fault.times is None:
            return True
        counted = f"{order.answer.seed}/resume" if order.fault is order.resume else order.answer.seed
        struck = self._strikes.pop(counted, 0) + 1
        self._strikes[counted] = struck
        if len(self._strikes) > _MAX_CALLS:
            self._strikes.popitem(last=False)
        return struck <= order.fault.times

    def record(self, order: Order) -> array[int] | None:
        """An array for the times of the order's tokens, which replaces the seed's earlier one. None if not recorded."""
        if not order.record:
            return None
        self._records.pop(order.answer.seed, None)
        if len(self._records) >= _MAX_RECORDS:
            self._records.popitem(last=False)
        return self._records.setdefault(order.answer.seed, array("q"))

    def recorded(self, seed: str) -> list[int]:
        """When each token of the seed's last call was written, in nanoseconds on the monotonic clock."""
        return list(self._records.get(seed, ()))

    def clear(self) -> None:
        """Deletes all calls, fault counts and recorded times."""
        self._records.clear()
        self._calls.clear()
        self._strikes.clear()
        self._size = 0

    def shown(self) -> list[Json]:
        """The calls as JSON, newest last."""
        return [vars(call).copy() for call, _ in self._calls]

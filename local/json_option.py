"""An option of a command whose value is JSON, such as `--faults '{"reads": 0.01}'`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def fields_of(kind: Callable[..., Value]) -> Callable[[str], Value]:
    """The `type` of an argument whose JSON object has the fields of `kind`."""

    def read(given: str) -> Value:
        try:
            return kind(**json.loads(given))
        except (TypeError, ValueError) as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read

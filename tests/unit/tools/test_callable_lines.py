"""The line checker of the end-to-end tests finds every stream that one of the SDKs can't read."""

from __future__ import annotations

import pytest

from tests.e2e.callable_lines import Heard, Misread, begun, heard

MESSAGE = 'data: {"message":{"a":1}}\n\n'
RESULT = 'data: {"result":{"b":2}}\n\n'
ERROR = 'data: {"error":{"status":"NOT_FOUND","message":"No."}}\n\n'
LONG = '{"@type":"type.googleapis.com/google.protobuf.Int64Value","value":"9007199254740993"}'


def test_a_good_stream_is_read_by_all_sdks() -> None:
    assert heard((MESSAGE + MESSAGE + RESULT).encode()) == Heard([{"a": 1}, {"a": 1}], {"b": 2})
    assert heard(ERROR.encode()) == Heard([], None, {"status": "NOT_FOUND", "message": "No."})
    assert heard(f'data: {{"result":{{"n":{LONG}}}}}\n\n'.encode()).result == {"n": 9007199254740993}


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        ("", "for ever"),
        (MESSAGE, "for ever"),
        (f"id: 1\n{MESSAGE}{RESULT}", "iOS: aborts"),
        (f": ping\n\n{RESULT}", "iOS: aborts"),
        (f"event: x\n{RESULT}", "iOS: aborts"),
        (f"data:{RESULT.removeprefix('data: ')}", "web: drops"),
        (RESULT + RESULT, "after the end"),
        (RESULT + MESSAGE, "after the end"),
        (ERROR + RESULT, "after the end"),
        (RESULT + "data: [DONE]\n\n", "after the end"),
        (MESSAGE + "data: [DONE]\n\n" + RESULT, "not JSON"),
        (MESSAGE + "\n" + RESULT, "Android: not JSON"),
        (RESULT.removesuffix("\n"), "Android: never sees"),
        (RESULT.removesuffix("\n\n"), "Android: never sees"),
        ('data: {"message":\ndata: {"a":1}}\n\n' + RESULT, "iOS: not JSON"),
        (MESSAGE.replace("1", '"x\u2028y"') + RESULT, "iOS: not JSON"),
        (MESSAGE.replace("1", '"x\u0085y"') + RESULT, "iOS: not JSON"),
        (MESSAGE.replace("1", '{"@type":"x"}') + RESULT, "no value of the type"),
        (MESSAGE.replace("1", "9007199254740993") + RESULT, "more than a JavaScript number"),
        ('data: {"result":null}\n\n', "null"),
        ('data: {"message":null}\n\n' + RESULT, "null"),
        ('data: {"done":true}\n\n', "neither"),
        ('data: {"message":{},"result":{}}\n\n', "one thing alone"),
        (ERROR.replace("NOT_FOUND", "GONE"), "no error it knows"),
    ],
)
def test_a_stream_that_an_sdk_would_not_hear_is_found(stream: str, why: str) -> None:
    with pytest.raises(Misread, match=why):
        heard(stream.encode())


def test_of_a_stream_that_was_left_each_whole_event_is_read_by_the_same_rules() -> None:
    assert begun(b"") == begun(b'data: {"mess') == Heard()
    assert begun(f'{MESSAGE}{MESSAGE}data: {{"mess'.encode()) == Heard([{"a": 1}, {"a": 1}])
    assert begun((MESSAGE + RESULT).encode()) == Heard([{"a": 1}], {"b": 2})
    with pytest.raises(Misread, match="iOS: aborts"):
        begun(f"{MESSAGE}: ping\n\n{MESSAGE}".encode())

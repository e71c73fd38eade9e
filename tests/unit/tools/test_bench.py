"""The bench's reading, counting and judging are correct."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from bench import readme
from bench.bar import bars
from bench.figures import FIRST, LAST, Figures, percentile
from bench.lag import Shown
from bench.machine import steadiness
from bench.plan import full
from bench.question import Question
from bench.report import SUMMARY, SUMMARY_END, page
from bench.response import Response
from bench.system import Visit

ROOT = Path(__file__).resolve().parents[3]
HEAD = b"HTTP/1.1 200 OK\r\nX-Generation-Id: g1\r\n%b\r\n"
CHUNKED = HEAD % b"Transfer-Encoding: chunked\r\n"
QUESTION = Question(seed="unit", tokens=30, rate=50)
MILLISECOND = 1_000_000


class Heard(Response):
    """A response whose reads are given."""

    def __init__(self, reads: list[tuple[int, bytes]]):
        self.reads = reads
        self.sent = 0
        self._head = reads[0][1] if reads else b""


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(said: str) -> bytes:
    return b"id: 1\ndata: " + orjson.dumps({"choices": [{"index": 0, "delta": {"content": said}}]}) + b"\n\n"


def heard(said: list[str], end: bytes = b"data: [DONE]\n\n") -> Visit:
    """A token a millisecond, the end with the last."""
    reads = [(0, HEAD % b"")] + [(k * MILLISECOND, event(each)) for k, each in enumerate(said, 1)]
    return Visit("holdfast", 0, Heard([*reads, (len(said) * MILLISECOND, end)]))


def shown(said: list[str], end: bytes = b"data: [DONE]\n\n") -> Shown:
    found = Shown(case="1", path="holdfast", round=0, pace=0.02)
    found.add(QUESTION, heard(said, end), [k * MILLISECOND - 500_000 for k in range(1, QUESTION.tokens + 1)])
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_a_chunked_body_is_read_whole_wherever_it_is_cut(size: int) -> None:
    body = b"".join(event(token) for token in QUESTION.answer) + b"data: [DONE]\n\n"
    coded = b"".join(chunk(body[at : at + 100]) for at in range(0, len(body), 100)) + b"0\r\n\r\n"
    reads = [(0, CHUNKED)] + [(at + size, coded[at : at + size]) for at in range(0, len(coded), size)]
    assert b"".join(data for _, data in Heard(reads).body()) == body
    visit = Visit("holdfast", 0, Heard(reads))
    assert [said for _, said in visit.tokens()] == QUESTION.answer
    assert visit.end() is not None


def test_an_event_is_read_when_its_last_byte_is() -> None:
    first, second = event("a"), event("b")
    reads = [(1, HEAD % b"" + first[:-1]), (2, first[-1:] + second[:5]), (3, second[5:])]
    assert list(Visit("direct", 0, Heard(reads)).tokens()) == [(2, "a"), (3, "b")]


def test_each_path_s_tokens_and_end_are_known() -> None:
    genkit = Heard([(1, HEAD % b""), (2, b'data: {"message":"a"}\n\n'), (3, b'data: {"result":"whole"}\n\n')])
    assert list(Visit("genkit, live", 0, genkit).tokens()) == [(2, "a")]
    assert Visit("genkit, live", 0, genkit).end() == 3
    broken = Heard([(1, HEAD % b""), (2, b'data: {"error":{"code":"incomplete"}}\n\n')])
    assert Visit("holdfast", 0, broken).end() is None
    assert list(Visit("holdfast", 0, broken).tokens()) == []


def test_a_lag_is_from_the_write_to_the_read() -> None:
    found = shown(QUESTION.answer)
    assert (found.whole, found.lost, found.disordered) == (1, 0, 0)
    assert found.lags == [[500] * QUESTION.tokens]
    assert found.ttft == [1000]
    assert found.end == [500]


def test_a_token_that_is_missing_doubled_or_swapped_is_counted() -> None:
    answer = QUESTION.answer
    missing = shown(answer[:10] + answer[11:])
    assert (missing.whole, missing.lost, missing.disordered) == (0, 1, 0)
    assert missing.lags[0][10] is None
    assert (shown(answer[:11] + answer[10:]).whole, shown(answer[:11] + answer[10:]).disordered) == (0, 1)
    assert shown([*answer[:10], answer[11], answer[10], *answer[12:]]).disordered == 1
    assert shown([*answer[:10], "another", *answer[11:]]).lost == 1
    assert shown([*answer, "another"]).disordered == 1
    assert shown(answer, end=b"").whole == 0


def test_a_percentile_is_one_of_the_values() -> None:
    assert [percentile(range(1, 101), share) for share in (0.0, 0.5, 0.95, 1.0)] == [1, 50, 95, 100]
    assert percentile([7], 0.95) == 7
    assert percentile([], 0.95) is None


def row(case: str, path: str, lags: list[int | None], **more: Any) -> dict[str, Any]:
    lost = sum(lag is None for lag in lags)
    spent = {"own": 0.3, "store": 0.1, "queue": 0.0, "upstream": 0.2, "client": 0.1, "wall": 2.0}
    seen = {"whole": int(not lost), "lost": lost, "disordered": 0, "ttft": [20_000], "end": [5_000], "spent": spent}
    return {"case": case, "path": path, "round": 0, "pace": 0.02, "lags": [lags], **seen, **more}


def raw(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A run in which these rows were measured."""
    return {
        "full": True,
        "machine": {"processor": "one"},
        "patience": 20.0,
        "cases": {case.name: case.described() for case in full(5).cases},
        "seconds": {"lag": 60.0},
        "lag": list(rows),
        **more,
    }


def test_a_figure_is_the_median_of_the_rounds() -> None:
    rounds = [row("1", "holdfast", [1_000 * lag] * 300) for lag in (90, 10, 40, 30, 20)]
    assert Figures(raw(*rounds)).lag("1", "holdfast", 0.95) == 30
    assert Figures(raw(*rounds)).worst_lag("1", "holdfast") == 90
    assert Figures(raw(*rounds)).cpu("1", "holdfast", "own") == pytest.approx(1.0)
    assert Figures(raw()).lag("1", "holdfast", 0.95) is None


def test_the_first_and_the_last_tenth_are_told_apart() -> None:
    figures = Figures(raw(row("64000", "holdfast", [1_000] * 6_400 + [5_000] * 51_200 + [3_000] * 6_400)))
    assert figures.lag_of_tenth("64000", "holdfast", FIRST) == 1
    assert figures.lag_of_tenth("64000", "holdfast", LAST) == 3


def verdicts(*rows: dict[str, Any], **more: Any) -> dict[str, bool | None]:
    return {bar.what: bar.reached for bar in bars(Figures(raw(*rows, **more)))}


def test_each_line_is_reached_or_not_or_was_not_measured() -> None:
    assert set(verdicts().values()) == {None}
    line = "lag p95, 1 × 300 at 50/s"
    assert verdicts(row("1", "holdfast", [119_000] * 300))[line] is True
    assert verdicts(row("1", "holdfast", [121_000] * 300))[line] is False
    assert verdicts(row("1", "instant", [121_000] * 300))[line] is None
    lost = "tokens missing or out of order, all of Holdfast's cases"
    assert verdicts(row("1", "holdfast", [1_000] * 300))[lost] is True
    assert verdicts(row("1", "holdfast", [1_000] * 299 + [None]))[lost] is False
    assert verdicts(row("1", "genkit, subscriber", [None] * 300))[lost] is None
    assert verdicts(cold={"import": [0.46, 0.44, 0.46], "first": [2.0]})["cold import, everything"] is False


def test_the_first_token_is_judged_by_what_it_is_over_direct() -> None:
    direct = row("1", "direct", [100] * 300, ttft=[2_000])
    line = "first token over direct, 1 stream"
    assert verdicts(direct, row("1", "holdfast", [100] * 300, ttft=[31_000]))[line] is True
    assert verdicts(direct, row("1", "holdfast", [100] * 300, ttft=[33_000]))[line] is False


@pytest.mark.parametrize(("last", "reached"), [(320, True), (330, False)])
def test_an_answer_s_end_may_lag_as_much_longer_than_its_beginning_as_the_interval_between_two_commits_is(
    last: int, reached: bool
) -> None:
    line = "lag p95 of the last tenth over the first's, each in its intervals, 1 × 64,000 at 1,000/s"
    lags = [100_000] * 6_400 + [250_000] * 51_200 + [1_000 * last] * 6_400
    assert verdicts(row("64000", "holdfast", lags))[line] is reached


def cost(system: str, how: str, tokens: int, **counted: int) -> dict[str, Any]:
    nothing = {"commits": 1, "writes": 1, "written": 1, "reads": 1, "read": 1}
    return {"system": system, "how": how, "tokens": tokens, "rate": 50.0, "whole": True, **nothing, **counted}


def test_writes_are_judged_against_genkit_s_in_the_same_run() -> None:
    theirs = cost("genkit", "one viewer", 300, writes=302)
    line = "Firestore writes, 1 × 300 at 50/s, of Genkit's"
    assert verdicts(cost=[theirs, cost("holdfast", "one viewer", 300, writes=60)])[line] is True
    assert verdicts(cost=[theirs, cost("holdfast", "one viewer", 300, writes=61)])[line] is False
    unwatched = "Firestore writes, 4,000 tokens at 50/s, nobody watching"
    assert verdicts(cost=[cost("holdfast", "nobody watching", 4_000, writes=101)])[unwatched] is False


def memory(generation: int, viewer: int, idle: int) -> dict[str, Any]:
    """What 10 live generations take, each with a viewer, and then 100 idle viewers."""
    live = {"api": 1_000 + 10 * viewer, "worker": 2_000 + 10 * generation}
    crowd = {"viewers": 100, "api": live["api"] + 100 * idle, "worker": live["worker"]}
    return {"generations": 10, "warm": {"api": 1_000, "worker": 2_000}, "live": live, "watched": [crowd]}


def test_memory_is_judged_as_deployed_and_shown_with_a_listen_stream_for_each_too() -> None:
    both = {"one": memory(300_000, 171_000, 90_000), "deployed": memory(217_000, 153_000, 78_000)}
    assert verdicts(memory=both).items() >= {
        ("memory of a live generation", True),
        ("memory of its viewer", False),
        ("memory of each of 100 idle viewers of one generation", False),
    }
    rows = {cells[0]: cells[1] for cells in cells(page(raw(memory=both), []))}
    assert rows["Holdfast: api, each of their 10 viewers"] == "153.0 kB"
    assert rows["Holdfast: the same with a listen stream for each, which the emulator needs"] == "171.0 kB"
    assert rows["Holdfast: api, each of 100 idle viewers of one generation"] == "78.0 kB"


def cells(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.startswith("| "):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def test_the_page_says_where_tokens_are_missing() -> None:
    whole, broken = row("2000", "holdfast", [9_000] * 2_000), row("2000", "genkit, subscriber", [9_000, None] * 1_000)
    text = page(raw(whole, broken), [])
    assert ["**Holdfast**", "9.0"] in [each[:2] for each in cells(text)]
    assert ["Genkit, subscriber", "9.0 ✗"] in [each[:2] for each in cells(text)]
    assert ["Genkit, subscriber", "1", "0 of 1", "1,000"] in [each[:4] for each in cells(text)]
    assert ["lag p95, 1 × 300 at 50/s", "≤ 120 ms", "–", "–", "not measured"] in list(cells(text))


def test_the_page_says_how_fast_the_machine_was() -> None:
    rounds = [row("1", "holdfast", [1_000] * 300, pace=pace) for pace in (0.021, 0.055, 0.024)]
    said = "the same loop of Python, before each case, took 21 to 55 ms, median 24"
    assert ["speed", said] in list(cells(page(raw(*rounds), [])))


def test_a_machine_that_stalls_is_told_from_one_that_is_steady() -> None:
    stalled = steadiness([0.001] * 9_000 + [0.003] * 100 + [0.010] * 70)
    assert stalled.startswith("of 10.0 s of short loops")
    assert "7.0% went to those that took more than 3 times the median; the slowest took 10.0 times" in stalled
    assert " 0.0% went to those" in steadiness([0.001] * 9_000 + [0.002] * 9_000)


@pytest.mark.parametrize(("whole", "mark", "peer"), [(True, "", "4,002"), (False, " ✗", "–")])
def test_the_page_says_which_answer_was_cut_off_and_compares_nothing_with_it(whole: bool, mark: str, peer: str) -> None:
    counted = [
        cost("holdfast", "nobody watching", 4_000, writes=94),
        cost("holdfast", "one viewer", 4_000),
        {**cost("genkit", "one viewer", 4_000, writes=4_002), "whole": whole},
        cost("genkit", "replayed", 4_000, reads=4_002),
    ]
    rows = list(cells(page(raw(cost=counted), [])))
    assert f"Genkit, one viewer{mark}" in [each[0] for each in rows]
    assert "**Holdfast**, one viewer" in [each[0] for each in rows]
    judged = ["Firestore writes, 4,000 tokens at 50/s, nobody watching", "≤ 100", "94", peer, "yes"]
    assert judged in rows
    replay = "Firestore reads to replay a finished 4,000-token answer"
    assert [each[3] for each in rows if each[0] == replay] == [peer]


def test_the_readme_gets_the_summary_with_links_that_hold(tmp_path: Path) -> None:
    there = tmp_path / "README.md"
    there.write_text(f"before\n{readme.BEGIN}old\n{readme.END}\nafter\n", encoding="utf-8")
    readme.update(there, f"# Measured\n{SUMMARY}\nnew\n![Lag](load.svg)\n{SUMMARY_END}\nrest\n")
    text = there.read_text(encoding="utf-8")
    assert text == f"before\n{readme.BEGIN}new\n![Lag](bench/load.svg)\n{readme.END}\nafter\n"


def test_the_readme_s_numbers_are_those_of_the_results() -> None:
    results = ROOT / "bench" / "results.md"
    there = readme.shown((ROOT / "README.md").read_text(encoding="utf-8"))
    assert there == (readme.block(results.read_text(encoding="utf-8")) if results.exists() else "")

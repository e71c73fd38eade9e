"""Faults of Firestore: it does not respond, is away, or refuses commits or reads."""

from __future__ import annotations

import time

from chaos.fault import Fault
from chaos.plan import Plan
from chaos.round import Round
from chaos.stage import Stage
from local.client import Client

DRAIN_SECONDS = 0.3  # until a commit that was sent is seen to be under way


class FirestoreFrozen(Fault):
    """Firestore accepts calls but does not respond, for longer than a lease."""

    key = "firestore-frozen"
    title = "Firestore frozen"
    recovery = "the thaw"

    def tokens(self, plan: Plan) -> tuple[int, int]:
        return round(plan.rate * plan.frozen * 0.3), round(plan.rate * (plan.frozen + 2))

    def strike(self, on: Round) -> None:
        on.wait_until_streaming()
        on.keep()
        firestore = on.stage.stack.processes["firestore"]
        firestore.pause()
        time.sleep(on.plan.frozen)
        firestore.resume()
        on.recovers_from_now()

    def restore(self, stage: Stage) -> None:
        stage.stack.processes["firestore"].resume()


class FirestoreRestarted(Fault):
    """Firestore goes down with all its connections, and comes back with what was committed."""

    key = "firestore-restarted"
    title = "Firestore restarted"
    recovery = "its return"

    def strike(self, on: Round) -> None:
        on.wait_until_streaming()
        stack = on.stage.stack
        functions = [stack.processes[name] for name in ("api", "worker")]
        # Nobody may commit between saving the data and the end: the commit would be acknowledged but not saved.
        for function in functions:
            function.pause()
        time.sleep(DRAIN_SECONDS)
        on.stage.wait_for_commits()
        on.keep()
        saved = stack.save_firestore()
        stack.processes["firestore"].kill()
        for function in functions:
            function.resume()
        time.sleep(on.plan.down)
        stack.start_firestore(saved)
        on.recovers_from_now()

    def restore(self, stage: Stage) -> None:
        for name in ("api", "worker"):
            stage.stack.processes[name].resume()


class CommitsFail(Fault):
    """A fifth of all commits fail, and half of those take effect nevertheless."""

    key = "commits-fail"
    title = "commits that fail"
    share = 0.2

    def begin(self, on: Round) -> None:
        on.stage.fault_firestore(share=self.share, done=0.5, seed=on.chance.randrange(1 << 30))

    def settle(self, on: Round) -> None:
        if not on.stage.firestore_made().keys() - {"reads", "contention", "unindexed"}:
            on.broken.append("expected commits to fail, none did: the round shows nothing")

    def restore(self, stage: Stage) -> None:
        stage.fault_firestore(share=0)


class CommitsRefused(Fault):
    """No commit succeeds for minutes, while reads work and a page lists generations. None may be given up."""

    key = "commits-refused"
    title = "commits refused, reads working"
    recovery = "the first commit taken"
    list_seconds = 4.0

    def tokens(self, plan: Plan) -> tuple[int, int]:
        return plan.tokens[0], round(plan.rate * plan.refused * 1.05)

    def strike(self, on: Round) -> None:
        on.wait_until_streaming()
        on.keep()
        on.stage.fault_firestore(share=1, done=0)
        until = time.monotonic() + on.plan.refused
        clients = [Client(on.stage.stack.url, asked.question.user) for asked in on.asked]
        while (left := until - time.monotonic()) > 0:
            for client in clients:
                list(client.list())
            time.sleep(min(self.list_seconds, left))
        on.stage.fault_firestore(share=0)
        on.recovers_from_now()
        for client in clients:
            client.session.close()

    def restore(self, stage: Stage) -> None:
        stage.fault_firestore(share=0, done=0.5)


class ReadsFail(Fault):
    """A tenth of all reads fail: documents, queries and counts."""

    key = "reads-fail"
    title = "reads that fail"
    share = 0.1

    def load(self, plan: Plan) -> int:
        """Enough for a hundred reads in a short run."""
        return 2 * plan.load

    def begin(self, on: Round) -> None:
        usual = on.stage.stack.strict
        self._usual = usual.firestore.get("reads", 0) if usual else 0
        on.stage.fault_firestore(reads=self.share, seed=on.chance.randrange(1 << 30))

    def settle(self, on: Round) -> None:
        if not on.stage.firestore_made().get("reads"):
            on.broken.append("expected reads to fail, none did: the round shows nothing")

    def restore(self, stage: Stage) -> None:
        stage.fault_firestore(reads=self._usual)

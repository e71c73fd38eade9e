"""What a user has taken and may take, as JSON: the route of the api, and what a callable returns."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response, jsonify, request

from lib.domain.usage import MILLION, Limits, Usage
from lib.wires.service import Service


def register(app: Flask, service: Service) -> None:
    """Adds the route."""

    @app.get("/v1/usage")
    def usage() -> Response:
        return jsonify(object="list", data=usage_of(service.identify(request.headers), service))


def usage_of(uid: str, service: Service) -> list[dict[str, Any]]:
    """A user's current periods, none if nothing is counted. Errors: `Unreachable`."""
    return [_shown(*each) for each in service.generations.budgets.of(uid, datetime.now(UTC))]


def _shown(usage: Usage, limits: Limits) -> dict[str, Any]:
    cost = (usage.cost, usage.taken_cost, limits.cost)
    return {
        "object": "usage",
        "period": str(usage.account.budget),
        "resets": usage.account.resets.isoformat().replace("+00:00", "Z"),
        "answers": usage.answers,
        "inputTokens": usage.input_tokens,
        "outputTokens": usage.output_tokens,
        "tokens": _unit(usage.tokens, usage.taken_tokens, limits.tokens),
        "cost": _unit(*(each / MILLION for each in cost)) if any(cost) else None,
    }


def _unit(used: float, taken: float, limit: float) -> dict[str, float | None]:
    """`reserved` is what running answers hold."""
    return {"used": used, "reserved": round(taken - used, 6), "limit": limit or None}

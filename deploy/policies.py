"""IAM policies and organisation policies, as gcloud prints them."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.resources import read

GLOBAL = {"global", "in:global-locations"}


def granted(member: str, role: str, expression: str = "") -> Iterator[str]:
    """`yes` where the policy grants a member this role, under this condition and no other."""
    for binding in dict(read()).get("bindings", []):
        condition = binding.get("condition", {}).get("expression", "")
        if binding["role"] == role and member in binding["members"] and _plain(condition) == _plain(expression):
            yield "yes"
            return


def bound(member: str, role: str) -> Iterator[str]:
    """`yes` where the policy binds a member to this role, under whatever condition."""
    for binding in dict(read()).get("bindings", []):
        if binding["role"] == role and member in binding["members"]:
            yield "yes"
            return


def automatic() -> Iterator[str]:
    """`no` where the effective policy `gcp.resourceLocations` refuses secrets that Google replicates as it likes.

    Those need the location `global`: https://cloud.google.com/secret-manager/docs/choosing-replication. With no policy,
    or one that can't be read, nothing is printed.
    """
    policy = dict(read()).get("listPolicy", {})
    allowed, denied = set(policy.get("allowedValues", [])), set(policy.get("deniedValues", []))
    if policy.get("allValues") == "DENY" or (allowed and not allowed & GLOBAL) or denied & GLOBAL:
        yield "no"


def _plain(expression: str) -> str:
    return "".join(expression.split())

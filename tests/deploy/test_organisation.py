"""In an organisation: what its policies refuse can be had another way, and each message says which."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deploy.cloud import Cloud, Done
from tests.deploy.test_refusing import refused

KEY = "projects/keys/locations/us-central1/keyRings/ring/cryptoKeys/holdfast"
EVERYBODY = [{"role": "roles/run.invoker", "members": ["allUsers"]}]


def test_a_policy_that_refuses_everybody_is_named_with_the_other_way(cloud: Cloud) -> None:
    cloud.change(domain_restricted=True)
    done = cloud.run()
    assert done.code == 1
    assert "do not belong to a permitted customer" in done.err
    assert "Set PUBLIC=no-check" in done.err
    assert "The API is at" not in done.out
    done = cloud.run(PUBLIC="no-check")
    assert (done.code, done.changes) == (0, ["run deploy holdfast-api"]), done.err
    assert "no-invoker-iam-check" in cloud.deployed("api")
    assert "no-invoker-iam-check" not in cloud.deployed("worker")
    assert cloud.state["policies"].get("run services us-central1/holdfast-api", []) == []
    assert "The API is at" in done.out


def test_going_back_to_a_grant_turns_the_check_on_again(live: Cloud) -> None:
    assert live.run(PUBLIC="no-check").code == 0
    assert live.run().code == 0
    assert "invoker-iam-check" in live.deployed("api")


def test_a_grant_to_everybody_that_is_gone_is_made_again(live: Cloud) -> None:
    live.change(policies={**live.state["policies"], "run services us-central1/holdfast-api": []})
    done = live.run()
    assert (done.code, done.changes) == (0, ["run services add-iam-policy-binding holdfast-api"]), done.err
    assert live.state["policies"]["run services us-central1/holdfast-api"] == EVERYBODY


@pytest.mark.parametrize("ingress", ["internal", "internal-and-cloud-load-balancing"])
def test_an_api_that_is_hidden_is_not_asked_whether_it_is_there(live: Cloud, ingress: str) -> None:
    done = live.run(INGRESS=ingress)
    assert done.code == 0, done.err
    assert (live.deployed("api")["ingress"], live.deployed("worker")["ingress"]) == (ingress, "internal")
    assert f"Not checked: whether the api answers, because INGRESS={ingress}" in done.out
    assert live.run().code == 0
    assert (live.deployed("api")["ingress"], live.deployed("worker")["ingress"]) == ("all", "all")


def test_a_network_is_both_functions_way_out_and_none_is_again(live: Cloud) -> None:
    assert live.run(VPC="our-network,our-subnet", VPC_EGRESS="all-traffic").code == 0
    for name in ("api", "worker"):
        flags = live.deployed(name)
        assert (flags["network"], flags["subnet"], flags["vpc-egress"]) == ("our-network", "our-subnet", "all-traffic")
        assert "clear-network" not in flags
    assert live.run(VPC="our-network").code == 0
    assert "subnet" not in live.deployed("api")
    assert live.deployed("api")["vpc-egress"] == "private-ranges-only"
    assert live.run().code == 0
    assert "clear-network" in live.deployed("worker")
    assert "network" not in live.deployed("worker")


def test_a_key_of_one_s_own_encrypts_all_that_is_made(cloud: Cloud) -> None:
    done = cloud.run(KMS_KEY=KEY)
    assert done.code == 0, done.err
    assert cloud.deployed("api")["key"] == cloud.deployed("worker")["key"] == KEY
    assert cloud.state["databases"]["(default)"]["key"] == KEY
    (secret,) = cloud.state["secrets"].values()
    (replica,) = secret["replication"]["userManaged"]["replicas"]
    assert replica == {"location": "us-central1", "customerManagedEncryption": {"kmsKeyName": KEY}}
    assert cloud.run().code == 0
    assert "clear-key" in cloud.deployed("api")


def test_a_new_database_is_of_the_standard_edition(first: tuple[Done, dict[str, Any]]) -> None:
    assert first[1]["databases"]["(default)"]["edition"] == "STANDARD"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("PUBLIC", "yes", "PUBLIC: it must be iam or no-check, and is 'yes'"),
        ("INGRESS", "none", "INGRESS: it must be all, internal or internal-and-cloud-load-balancing, and is 'none'"),
        ("VPC", "a,b,c", "VPC: it must be NETWORK or NETWORK,SUBNET, and is 'a,b,c'"),
        ("VPC", ",b", "VPC: it must be NETWORK or NETWORK,SUBNET"),
        ("VPC_EGRESS", "some", "VPC_EGRESS: it must be private-ranges-only or all-traffic, and is 'some'"),
        ("KMS_KEY", "our-key", "KMS_KEY: it must be projects/…/locations/us-central1/keyRings/…/cryptoKeys/…"),
        ("KMS_KEY", KEY.replace("us-central1", "us"), "KMS_KEY: it must be projects/…/locations/us-central1/"),
        ("EDITION", "enterprise", "EDITION: it must be standard, and is 'enterprise'"),
    ],
)
def test_what_is_wrong_is_named(cloud: Cloud, variable: str, value: str, said: str) -> None:
    assert refused(cloud, **{variable: value}).startswith(said)


def test_a_database_elsewhere_needs_a_key_there(cloud: Cloud) -> None:
    assert refused(cloud, KMS_KEY=KEY, FIRESTORE_LOCATION="nam5").startswith(
        "KMS_KEY: it is in us-central1, but the database is to be made in nam5, and needs a key there."
    )

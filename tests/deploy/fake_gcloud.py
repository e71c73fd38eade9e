"""A fake gcloud with one project, for tests of deploy.sh. It records each call, changes the project's state, and fails
where Google Cloud would. The state is in `state.json` in the project's folder.

deploy.sh calls gcloud up to 80 times, and starting a Python each time would take most of a test's time: the program in
PATH is a few lines of bash that ask the tests' process.

Resources have the format that the real gcloud prints with --format=json. Flags are not checked here, because every call
is also given to the real parser. It must not be more lenient than Google Cloud: a service or a queue is of a region,
and in another there is none of its name. In the state its name is REGION/NAME.
"""

import json
import shutil
import threading
import traceback
import uuid
from contextlib import contextmanager
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

APIS = {
    "iam": "iam",
    "projects": "cloudresourcemanager",
    "firestore": "firestore",
    "tasks": "cloudtasks",
    "secrets": "secretmanager",
    "run": "run",
    "resource-manager": "cloudresourcemanager",
}
REGIONS = {
    "run": ("us-central1", "europe-west1", "europe-west9", "us-east4"),
    "tasks": ("us-central1", "europe-west1", "us-east4"),
    "firestore": ("us-central1", "us-east4", "europe-west1", "europe-west9", "nam5", "nam7", "eur3"),
}
OF_A_REGION = {"run services": "region", "tasks queues": "location"}  # and the flag that says which
POLICY = ("get-iam-policy", "add-iam-policy-binding", "remove-iam-policy-binding")


class Refusal(Exception):
    """What gcloud says on stderr before it exits with 1."""


class Project:
    warning = ""  # what gcloud says on stderr of a call that succeeds, in a line

    def __init__(self, state, argv, stdin):
        self.state = state
        self.stdin = stdin
        self.words = [each for each in argv if not each.startswith("--")]
        self.flags = {}
        for each in argv:
            if each.startswith("--"):
                name, _, value = each[2:].partition("=")
                self.flags.setdefault(name, []).append(value)

    def flag(self, name, default=None):
        return self.flags.get(name, [default])[-1]

    def placed(self, kind, name):
        """The name in the state of what this call calls so: with its region, for what is of one."""
        if kind not in OF_A_REGION:
            return name
        region = self.flag(OF_A_REGION[kind])
        if region is None:
            raise Refusal(f"{kind} {name}: no {OF_A_REGION[kind]} is given, and nobody can be asked for it")
        return f"{region}/{name}"

    def answer(self):
        """What is printed for the words of this call."""
        self.fail_if_told()
        if self.words[:1] == ["auth"]:
            return self.token()
        if self.flag("project") not in (None, self.state["project"]):
            raise Refusal("PERMISSION_DENIED: there is no such project, or not for you")
        if self.words[:2] == ["projects", "describe"]:
            return self.describe()
        if self.words[0] != "services":
            self.need_api(APIS[self.words[0]])
        for at, word in enumerate(self.words):
            if word in POLICY:
                kind = " ".join(self.words[:at])
                return self.policy(word, kind, self.placed(kind, self.words[at + 1]))
        for length in range(len(self.words), 0, -1):
            command = getattr(self, "_".join(self.words[:length]).replace("-", "_"), None)
            if command is not None:
                self.about = self.words[length:]
                return command()
        raise Refusal(f"this gcloud does not know: {' '.join(self.words)}")

    def ripe(self, key):
        """Whether what was made some time ago is known where it is asked for now. Each time it is not counts."""
        left = self.state["young"].get(key, 0)
        if left:
            self.state["young"][key] = left - 1
        return not left

    def age(self, key):
        """Something was made, and is not known at once."""
        if self.state["lag"]:
            self.state["young"][key] = self.state["lag"]

    def fail_if_told(self):
        faults = self.state["faults"]
        for words, times in faults.items():
            if times and " ".join(self.words).startswith(words):
                faults[words] -= 1
                raise Refusal("UNAVAILABLE: told to fail")

    def need_api(self, name):
        if f"{name}.googleapis.com" not in self.state["enabled"]:
            raise Refusal(f"SERVICE_DISABLED: {name}.googleapis.com is not enabled on this project")
        if not self.ripe(f"api {name}.googleapis.com"):
            raise Refusal(
                f"PERMISSION_DENIED: {name} API has not been used in project {self.state['number']} before or it is "
                "disabled. If you enabled this API recently, wait a few minutes for the action to propagate."
            )

    def token(self):
        if not self.state["login"]:
            raise Refusal("You do not currently have an active account selected.")
        return self.state["login"]

    def describe(self):
        if self.words[2] != self.state["project"]:
            raise Refusal("PERMISSION_DENIED: there is no such project, or not for you")
        return {"projectNumber": self.state["number"]}

    def policy(self, verb, kind, name):
        if kind != "projects" and (name not in self.there(kind) or not self.ripe(f"{kind} {name}")):
            raise Refusal(f"NOT_FOUND: {kind} {name}")
        bindings = self.state["policies"].setdefault(f"{kind} {name}", [])
        if verb == "get-iam-policy":
            return {"bindings": bindings, "etag": "BwY", "version": 1} if bindings else {"etag": "ACAB"}
        member, role = self.flag("member"), self.flag("role")
        given = self.flag("condition", "None")
        condition = {} if given == "None" else dict(each.split("=", 1) for each in given.split(","))
        alike = [each for each in bindings if each["role"] == role and each.get("condition", {}) == condition]
        if verb == "add-iam-policy-binding":
            self.check_member(member)
            if alike:
                alike[0]["members"].append(member)
            else:
                bindings.append({"role": role, "members": [member]} | ({"condition": condition} if condition else {}))
            self.age(f"{kind} {name} {role} {member}")
            return None
        if "all" in self.flags:
            alike = [each for each in bindings if each["role"] == role and member in each["members"]]
        if not any(member in each["members"] for each in alike):
            raise Refusal(f"Policy binding with the specified principal, role, and condition not found: {member}")
        for each in alike:
            each["members"].remove(member)
        bindings[:] = [each for each in bindings if each["members"]]
        return None

    def check_member(self, member):
        email = member.partition(":")[2]
        if member == "allUsers" and self.state["domain_restricted"]:
            raise Refusal(
                "FAILED_PRECONDITION: One or more users named in the policy do not belong to a permitted customer, "
                "perhaps due to an organization policy."
            )
        if member != "allUsers" and (email not in self.state["accounts"] or not self.ripe(f"account {email}")):
            raise Refusal(f"INVALID_ARGUMENT: Service account {email} does not exist.")

    def there(self, kind):
        return {
            "iam service-accounts": self.state["accounts"],
            "tasks queues": self.state["queues"],
            "secrets": self.state["secrets"],
            "run services": self.state["services"],
        }[kind]

    def granted(self, kind, name, role, account):
        member = f"serviceAccount:{account}"
        there = any(
            each["role"] == role and member in each["members"]
            for each in self.state["policies"].get(f"{kind} {name}", [])
        )
        return there and self.ripe(f"{kind} {name} {role} {member}")

    def create(self, kind, name, value):
        if name in self.there(kind):
            raise Refusal(f"ALREADY_EXISTS: {kind} {name}")
        self.there(kind)[name] = value
        self.age(f"{kind} {name}")

    def delete(self, kind):
        name = self.placed(kind, self.about[0])
        if name not in self.there(kind):
            raise Refusal(f"NOT_FOUND: {kind} {name}")
        del self.there(kind)[name]
        self.state["policies"].pop(f"{kind} {name}", None)

    # services

    def services_list(self):
        return [{"config": {"name": name}, "state": "ENABLED"} for name in self.state["enabled"]]

    def services_enable(self):
        for name in self.about:
            if name not in self.state["enabled"]:
                self.state["enabled"].append(name)
                self.age(f"api {name}")

    # where there is what, and what a policy says of it

    def locations(self):
        return [{"locationId": each} for each in REGIONS[self.words[0]]]

    run_regions_list = tasks_locations_list = firestore_locations_list = locations

    def resource_manager_org_policies_describe(self):
        if self.state["policy"] is None:
            raise Refusal("PERMISSION_DENIED: The caller does not have permission")
        return {"constraint": "constraints/gcp.resourceLocations", "listPolicy": self.state["policy"]}

    # iam

    def iam_service_accounts_list(self):
        return [{"email": email} for email in self.state["accounts"]]

    def iam_service_accounts_create(self):
        if not 6 <= len(self.about[0]) <= 30:
            raise Refusal("INVALID_ARGUMENT: an account's id has 6 to 30 characters")
        email = f"{self.about[0]}@{self.state['project']}.iam.gserviceaccount.com"
        self.create("iam service-accounts", email, self.flag("display-name"))
        self.age(f"account {email}")

    def iam_service_accounts_delete(self):
        self.delete("iam service-accounts")

    # firestore

    def database(self):
        name = self.flag("database")
        if name not in self.state["databases"] or not self.ripe(f"database {name}"):
            raise Refusal(f"NOT_FOUND: The database {name} does not exist for project {self.state['project']}")
        return self.state["databases"][name]

    def firestore_databases_list(self):
        root = f"projects/{self.state['project']}/databases"
        return [
            {"name": f"{root}/{name}", "type": each["type"], "locationId": each.get("location", "us-central1")}
            | {"databaseEdition": each.get("edition", "STANDARD")}
            for name, each in self.state["databases"].items()
        ]

    def firestore_databases_create(self):
        name = self.flag("database")
        if name in self.state["databases"]:
            raise Refusal(f"ALREADY_EXISTS: the database {name}")
        kind = self.flag("type").upper().replace("-", "_")
        self.state["databases"][name] = {
            "type": kind,
            "edition": self.flag("edition").upper(),
            "key": self.flag("kms-key-name"),
            "location": self.flag("location"),
            "protected": "delete-protection" in self.flags,
            "composites": {},
            "fields": {},
            "expiring": [],
        }
        self.age(f"database {name}")
        if self.state["released"]:  # some databases come with rules that deny everything, and some with none
            project = f"projects/{self.state['project']}"
            self.state["rulesets"][f"{project}/rulesets/none"] = {"source": {"files": [DENY_ALL]}}
            self.state["releases"][f"{project}/releases/cloud.firestore"] = f"{project}/rulesets/none"

    def path(self, collection, kind, name):
        database = f"projects/{self.state['project']}/databases/{self.flag('database')}"
        return f"{database}/collectionGroups/{collection}/{kind}/{name}"

    def firestore_indexes_composite_list(self):
        return [
            {"name": self.path(each["collection"], "indexes", name), "queryScope": each["scope"]}
            | {
                "state": "READY" if self.ripe(f"index {name}") else "CREATING",
                "fields": [
                    *each["fields"],
                    {"fieldPath": "__name__", "order": each["fields"][-1].get("order", "ASCENDING")},
                ],
            }
            for name, each in self.database()["composites"].items()
        ]

    def firestore_indexes_composite_create(self):
        fields = [dict(part.split("=", 1) for part in each.split(",")) for each in self.flags["field-config"]]
        index = {
            "collection": self.flag("collection-group"),
            "scope": self.flag("query-scope", "collection").upper().replace("-", "_"),
            "fields": [{"fieldPath": each["field-path"], "order": each["order"].upper()} for each in fields],
        }
        there = self.database()["composites"]
        if index in there.values():
            raise Refusal("ALREADY_EXISTS: index already exists")
        self.state["made"] += 1
        there[f"CICAgJ{self.state['made']}"] = index
        if self.state["building"]:
            self.state["young"][f"index CICAgJ{self.state['made']}"] = self.state["building"]

    def firestore_indexes_composite_delete(self):
        del self.database()["composites"][self.about[0]]

    def firestore_indexes_fields_list(self):
        return [
            {"name": self.path("__default__", "fields", "*"), "indexConfig": {"indexes": [single("ASCENDING")]}},
            *(
                {
                    "name": self.path(*key.split(".")[:1], "fields", key.split(".", 1)[1]),
                    "indexConfig": {"indexes": [single(order) for order in orders]} if orders else {},
                }
                for key, orders in self.database()["fields"].items()
            ),
        ]

    def firestore_indexes_fields_update(self):
        key = f"{self.flag('collection-group')}.{self.about[0]}"
        if "clear-exemption" in self.flags:
            del self.database()["fields"][key]
        elif "disable-indexes" in self.flags:
            self.database()["fields"][key] = []
        else:
            self.database()["fields"][key] = [each.partition("=")[2].upper() for each in self.flags["index"]]

    def firestore_fields_ttls_list(self):
        return [
            {"name": self.path(*key.split(".")[:1], "fields", key.split(".", 1)[1]), "ttlConfig": {"state": "ACTIVE"}}
            for key in self.database()["expiring"]
        ]

    def firestore_fields_ttls_update(self):
        key = f"{self.flag('collection-group')}.{self.about[0]}"
        if "enable-ttl" in self.flags:
            self.database()["expiring"].append(key)
        else:
            self.database()["expiring"].remove(key)

    # tasks

    def tasks_queues_list(self):
        root = f"projects/{self.state['project']}/locations/{self.flag('location')}/queues"
        there = [(*name.split("/"), each) for name, each in self.state["queues"].items()]
        return [
            {"name": f"{root}/{name}", "state": "RUNNING", **each}
            for location, name, each in there
            if location == self.flag("location")
        ]

    def tasks_queues_create(self):
        self.create("tasks queues", self.placed("tasks queues", self.about[0]), self.limits())

    def tasks_queues_update(self):
        name = self.placed("tasks queues", self.about[0])
        if name not in self.state["queues"]:
            raise Refusal(f"NOT_FOUND: tasks queues {name}")
        self.state["queues"][name] = self.limits()

    def tasks_queues_delete(self):
        self.delete("tasks queues")

    def tasks_create_http_task(self):
        queue = self.placed("tasks queues", self.flag("queue"))
        if queue not in self.state["queues"]:
            raise Refusal("NOT_FOUND: Queue does not exist.")
        name = f"{queue}/tasks/{uuid.uuid4().int % 10**19:019}"
        self.state["tasks"][name] = {
            "url": self.flag("url"),
            "email": self.flag("oidc-service-account-email"),
            "audience": self.flag("oidc-token-audience"),
            "body": self.flag("body-content"),
        }
        return {"name": name}

    def tasks_describe(self):
        """A delivery at each look at it. A task that was accepted is gone."""
        name = f"{self.placed('tasks queues', self.flag('queue'))}/tasks/{self.about[0]}"
        task = self.state["tasks"].get(name)
        if task is not None and not self.state["paused"]:
            status = self.delivered(task)
            if status == 200:
                del self.state["tasks"][name]
                task = None
            else:
                said = {401: "UNAUTHENTICATED(16)", 403: "PERMISSION_DENIED(7)"}.get(status, "UNKNOWN(2)")
                task["lastAttempt"] = {"responseStatus": {"code": 7, "message": f"{said}: HTTP status code {status}"}}
        if task is None:
            raise Refusal("NOT_FOUND: The task no longer exists, though a task with this name existed recently.")
        return {"name": name, **task}

    def delivered(self, task):
        """What the worker answers to a task."""
        name = service_at(task["url"].removeprefix("https://"), self.state)
        if name not in self.state["services"]:
            return 404
        if not self.granted("run services", name, "roles/run.invoker", task["email"]):
            return 403
        deployed = self.state["deployed"][name]["flags"]["set-env-vars"][-1].split("|")
        if not {f"WORKER_URL={task['audience']}", f"TASKS_INVOKER={task['email']}"} <= set(deployed):
            return 401
        if json.loads(task["body"]) != {"check": True}:
            return 400
        return self.state["worker"]

    def tasks_delete(self):
        del self.state["tasks"][f"{self.placed('tasks queues', self.flag('queue'))}/tasks/{self.about[0]}"]

    def limits(self):
        return {
            "rateLimits": {
                "maxBurstSize": 100,
                "maxConcurrentDispatches": int(self.flag("max-concurrent-dispatches")),
                "maxDispatchesPerSecond": float(self.flag("max-dispatches-per-second")),
            },
            "retryConfig": {
                "maxAttempts": int(self.flag("max-attempts")),
                "maxBackoff": self.flag("max-backoff"),
                "maxDoublings": int(self.flag("max-doublings")),
                "maxRetryDuration": self.flag("max-retry-duration"),
                "minBackoff": self.flag("min-backoff"),
            },
        }

    # secrets

    def resource(self, name):
        return f"projects/{self.state['number']}/secrets/{name}"

    def secrets_list(self):
        wanted = self.flag("filter", "").removeprefix("labels.")
        return [
            {"name": self.resource(name), "labels": each["labels"], "replication": each.get("replication", {})}
            for name, each in self.state["secrets"].items()
            if not wanted or "=".join(*each["labels"].items()) == wanted
        ]

    def secrets_create(self):
        label, _, value = self.flag("labels").partition("=")
        replication = self.flag("replication-policy")
        if "replication-policy-file" in self.flags:
            replication = json.loads(self.stdin)
        if replication == "automatic" and self.state["no_global"]:
            raise Refusal(
                "FAILED_PRECONDITION: Constraint constraints/gcp.resourceLocations violated for "
                f"[orgpolicy:projects/{self.state['number']}] attempting to create a secret in [global]."
            )
        if replication == "automatic":
            replication = {"automatic": {}}
        elif replication == "user-managed":
            replicas = [{"location": each} for each in self.flag("locations").split(",")]
            replication = {"userManaged": {"replicas": replicas}}
        kept = {"labels": {label: value}, "versions": [], "replication": replication}
        self.create("secrets", self.about[0], kept)

    def secrets_delete(self):
        self.delete("secrets")

    def secrets_versions_list(self):
        versions = self.state["secrets"][self.about[0]]["versions"]
        return [
            {"name": f"{self.resource(self.about[0])}/versions/{number}", "state": each["state"]}
            for number, each in reversed(list(enumerate(versions, 1)))
        ]

    def secrets_versions_add(self):
        value = self.stdin
        if not value:
            raise Refusal("INVALID_ARGUMENT: the payload is empty")
        self.state["secrets"][self.about[0]]["versions"].append({"value": value, "state": "ENABLED"})

    def secrets_versions_access(self):
        return {"payload": self.version(self.flag("secret"), self.about[0])}

    def version(self, name, number):
        versions = self.state["secrets"].get(name, {"versions": []})["versions"]
        if not 0 < int(number) <= len(versions) or versions[int(number) - 1]["state"] != "ENABLED":
            raise Refusal(f"NOT_FOUND: version {number} of the secret {name}")
        return versions[int(number) - 1]["value"]

    # run

    def run_services_list(self):
        region, silent = self.flag("region"), self.state["silent"]
        if region is None and silent:
            self.warning = (
                f"WARNING: The following Cloud Run regions did not respond: {', '.join(silent)}. "
                "List results may be incomplete."
            )
        there = [(name.partition("/")[0], each) for name, each in self.state["services"].items()]
        return [each for at, each in there if region == at or (region is None and at not in silent)]

    def run_services_delete(self):
        self.delete("run services")
        self.state["deployed"].pop(self.placed("run services", self.about[0]))

    def run_deploy(self):
        name, project = self.placed("run services", self.about[0]), self.state["project"]
        for api in ("cloudbuild", "artifactregistry"):
            self.need_api(api)
        builder = self.flag("build-service-account").rpartition("/")[2]
        if not self.granted("projects", project, "roles/run.builder", builder):
            raise Refusal(f"could not resolve source: googleapi: Error 403: {builder} does not have storage access")
        account = self.flag("service-account")
        if account not in self.state["accounts"] or not self.ripe(f"account {account}"):
            raise Refusal(f"Permission 'iam.serviceaccounts.actAs' denied on {account} (or it may not exist)")
        for each in filter(None, self.flag("set-secrets", "").split(",")):
            secret, _, number = each.partition("=")[2].partition(":")
            self.version(secret, number)
            if not self.granted("secrets", secret, "roles/secretmanager.secretAccessor", account):
                raise Refusal(f"Permission denied on secret {secret} for Revision service account {account}")
        region = f"{self.flag('region')}/"
        others = [
            each["flags"]
            for other, each in self.state["deployed"].items()
            if other != name and other.startswith(region)
        ]
        asked = sum(int(each["max-instances"][-1]) * int(each["cpu"][-1]) for each in [self.flags, *others])
        if asked > self.state["quota"]:
            raise Refusal(
                "spec.template.metadata.annotations[autoscaling.knative.dev/maxScale]: Quota violated: "
                f"CpuAllocPerProjectRegion requested: {asked}000 allowed: {self.state['quota']}000"
            )
        service = self.state["services"].get(name)
        if service is None and "no-traffic" in self.flags:
            raise Refusal("--no-traffic not supported when creating a new service.")
        if service is None:
            service = {
                "metadata": {"name": self.about[0]},
                "spec": {"traffic": [{"latestRevision": True, "percent": 100}]},
            }
        self.state["made"] += 1
        before = self.state["deployed"].get(name, {}).get("revision")
        revision = f"{self.about[0]}-{self.state['made']:05}-abc"
        if "no-traffic" in self.flags:
            kept = [
                {"revisionName": each.get("revisionName", before), "percent": each["percent"]}
                for each in service["spec"]["traffic"]
                if each.get("percent")
            ]
            service["spec"]["traffic"] = [*kept, {"revisionName": revision, "tag": self.flag("tag")}]
        label, _, value = self.flag("labels").partition("=")
        service["metadata"]["labels"] = {"cloud.googleapis.com/location": self.flag("region"), label: value}
        variables = self.flag("set-env-vars").removeprefix("^|^").split("|")
        variables = [dict(zip(("name", "value"), each.split("=", 1), strict=True)) for each in variables]
        service["spec"]["template"] = {"spec": {"containers": [{"env": variables}]}}
        service["status"] = {"conditions": [{"type": "Ready", "status": "True"}]}
        self.state["services"][name] = service
        self.state["deployed"][name] = {"revision": revision, "flags": self.flags}
        if before is None:
            self.age(f"run services {name}")

    def run_services_update_traffic(self):
        traffic = self.state["services"][self.placed("run services", self.about[0])]["spec"]
        if "to-latest" in self.flags:
            tags = [{**each, "percent": 0} for each in traffic["traffic"] if "tag" in each]
            gone = self.flag("remove-tags")
            if gone and gone not in [each["tag"] for each in tags]:
                raise Refusal(f"there is no tag {gone}")
            kept = [each for each in tags if each["tag"] != gone]
            traffic["traffic"] = [{"latestRevision": True, "percent": 100}, *kept]
            return
        tag, _, share = self.flag("to-tags").partition("=")
        if tag not in [each.get("tag") for each in traffic["traffic"]]:
            raise Refusal(f"there is no tag {tag}")
        first = next(each for each in traffic["traffic"] if "tag" not in each)
        rest = {**first, "percent": 100 - int(share)}
        tagged = [{**each, "percent": int(share)} for each in traffic["traffic"] if each.get("tag") == tag]
        traffic["traffic"] = [rest, *tagged]


DENY_ALL = {
    "name": "firestore.rules",
    "content": "rules_version = '2';\nservice cloud.firestore {\n  match /databases/{database}/documents {\n"
    "    // Deny all, until somebody says otherwise.\n"
    "    match /{document=**} {\n      allow read, write: if false;\n    }\n  }\n}\n",
}


def service_at(host, state):
    """The name in the state of the service that has a host."""
    name, _, rest = host.partition(f"-{state['number']}.")
    return f"{rest.partition('.')[0]}/{name}"


def single(order):
    return {"queryScope": "COLLECTION", "fields": [{"fieldPath": "x", "order": order}], "state": "READY"}


def shown(answer, form):
    """An answer as `--format` wants it: JSON, or one value of each resource."""
    if form == "json":
        return json.dumps(answer)
    if isinstance(answer, str):
        return answer
    path = form.removeprefix("value(").removesuffix(")") if form else "payload"
    basename = path.endswith(".basename()")
    lines = []
    for each in answer if isinstance(answer, list) else [answer]:
        value = each
        for name in path.removesuffix(".basename()").split("."):
            value = value[name]
        lines.append(value.rpartition("/")[2] if basename else value)
    return "\n".join(lines)


def answered(folder, argv, environ, stdin):
    """What a call warns of, in a line or less, and what it prints. Errors: `Refusal`."""
    with (folder / "calls").open("a", encoding="utf-8") as calls:
        calls.write(json.dumps({"argv": argv, "environ": environ}) + "\n")
    file = folder / "state.json"
    before = file.read_text(encoding="utf-8")
    project = Project(json.loads(before), argv, stdin)
    try:
        answer = project.answer()
    finally:
        if (after := json.dumps(project.state)) != before:
            file.write_text(after, encoding="utf-8")
    return project.warning, "" if answer is None else shown(answer, project.flag("format")) + "\n"


# A call is texts that each end with NUL: the folder, the number of words, the words, the environment, an empty text,
# and stdin. The answer is the exit code in a line, a warning in another, which may be empty, and then what is printed:
# on stdout, or on stderr if it failed.
PROGRAM = """#!{bash}
exec 3<>/dev/tcp/127.0.0.1/{port}
input=
case "$*" in *-file=-*) IFS= read -rd '' input ;; esac
{{
    printf '%s\\0' '{folder}' "$#" "$@"
    for name in $(compgen -e); do printf '%s=%s\\0' "$name" "${{!name}}"; done
    printf '\\0%s\\0' "$input"
}} >&3
read -r code <&3
read -r warning <&3
[ -z "$warning" ] || printf '%s\\n' "$warning" >&2
[ "$code" != 0 ] || exec {cat} <&3
{cat} <&3 >&2
exit 1
"""


class Call(StreamRequestHandler):
    def handle(self):
        folder, argv = Path(self.text()), [self.text() for _ in range(int(self.text()))]
        environ = dict(each.split("=", 1) for each in iter(self.text, ""))
        try:
            code, (warning, said) = 0, answered(folder, argv, environ, self.text())
        except Refusal as refusal:
            code, warning, said = 1, "", f"ERROR: {refusal}\n"
        except Exception:
            code, warning, said = 1, "", traceback.format_exc()
        self.wfile.write(f"{code}\n{warning}\n{said}".encode())

    def text(self):
        read = b""
        while not read.endswith(b"\0"):
            there = self.rfile.peek()
            if not there:
                raise EOFError("the call broke off")
            read += self.rfile.read(there.find(b"\0") + 1 or len(there))
        return read[:-1].decode()


@contextmanager
def answering():
    """Answers the calls of programs. Yields what makes the text of one, for a project's folder."""
    with ThreadingTCPServer(("127.0.0.1", 0), Call) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        tools = {name: shutil.which(name) for name in ("bash", "cat")}
        yield lambda folder: PROGRAM.format(port=server.server_address[1], folder=folder, **tools)
        server.shutdown()
        thread.join()

#!/usr/bin/env bash
# Deploys Holdfast into a Google Cloud project, and removes it again. `deploy`, below, lists what is created.
# Every resource is read first and changed only if it differs, so this can be run again at any time.
set -euo pipefail
from=$PWD
cd "$(dirname "$0")"

usage() {
    cat <<'END'
./deploy.sh [--dry-run] [--canary=PERCENT] [--force]     deploys, or changes what differs
./deploy.sh destroy [--dry-run] [--yes] [--delete-data]  asks, then removes what was made

--dry-run         prints every command for an empty project and runs none; needs no login and no network
--canary=PERCENT  new revisions get this share of the traffic; without it, or with 100, they get all of it
--force           deploys the functions even if they do not differ, which undoes manual changes
--yes             destroy does not ask; required if there is no terminal
--delete-data     destroy also deletes generations, requests and journals, without asking

Variables are read from the environment, or from the file deploy.env, with one line VARIABLE=value for each.

  GOOGLE_CLOUD_PROJECT   must be set: the project
  UPSTREAM_BASE_URL      must be set, or UPSTREAMS_FILE: the upstream, such as https://api.openai.com/v1
  UPSTREAM_MODELS        must be set: the models that users may ask for, comma-separated; "*" allows all
  UPSTREAM_CONTINUE, UPSTREAM_PREFILL_STYLE
                         how an interrupted answer is continued: see the README
  UPSTREAM_SPEAKS, UPSTREAM_USAGE
                         its APIs, and whether it is asked for a stream's usage: see the README
  UPSTREAM_AUTH, UPSTREAM_HEADERS, UPSTREAM_QUERY
                         where the key goes, and what goes with every call: see the README
  UPSTREAM_API_KEY       its key, which is stored in Secret Manager: must be set when it is new; "none" for no key
  UPSTREAM_API_KEY_FILE  the file that contains the key, instead of the key; "-" is stdin
  UPSTREAMS_FILE         upstreams.toml, beside this script, for several upstreams: see the README. The keys are the
                         variables that its key_env name, and each may be in a file: OPENAI_API_KEY_FILE
  HOLDFAST_NAME          the name of all resources: holdfast unless set. A project can have two deployments, each with
                         its own FIRESTORE_DATABASE
  REGION                 where the functions run: us-central1 unless set
  FIRESTORE_LOCATION     where the database is created if there is none: REGION unless set
  RULES                  replace or keep: what to do with existing security rules of the application
  API_CONCURRENCY, API_MIN_INSTANCES, API_MAX_INSTANCES
                         80 simultaneous streams per instance, and 0 to 20 instances, unless set
  WORKER_CONCURRENCY, WORKER_MIN_INSTANCES, WORKER_MAX_INSTANCES
                         40 simultaneous answers per instance, and 0 to 25 instances, unless set
  PYTHON                 a Python 3.11 or newer, for this script: python3 unless set

The functions' settings:

END
    ask help "${OWN[@]}" "${LOCAL[@]}"
}

OWN=(GOOGLE_CLOUD_PROJECT WORKER_URL TASKS_INVOKER) # settings that this script determines
LOCAL=(FIRESTORE_EMULATOR_HOST TASKS_EMULATOR_HOST FIREBASE_AUTH_EMULATOR_HOST OIDC_CERTS_URL APP_CHECK_KEYS_URL)
WORKER_TIMEOUT=1860       # seconds; above the longest dispatch deadline
API_TIMEOUT=3600          # seconds; Cloud Run's maximum
SPARE_THREADS=10          # beyond the concurrency
MOST_DISPATCHES=5000      # Cloud Tasks' maximum of concurrent dispatches per queue
RULES_NAME=holdfast.rules # distinguishes rules from this script from the application's own

deploy() {
    apis artifactregistry cloudbuild cloudresourcemanager cloudtasks firebaserules firestore iam run secretmanager storage

    account "$api" 'Holdfast: serves the clients'
    account "$worker" 'Holdfast: calls the upstreams'
    account "$invoker" 'Holdfast: sends the tasks'
    account "$builder" 'Holdfast: builds the functions'

    database
    rules
    indexes
    # Retries end when both limits are reached. An hour after its start, an answer counts as lost in any case.
    queue --max-dispatches-per-second=500 --max-concurrent-dispatches="$(dispatches)" \
        --max-attempts=100 --max-retry-duration=3600s --min-backoff=1s --max-backoff=5s --max-doublings=4
    each_key secret

    grant "$api" roles/datastore.user projects "$GOOGLE_CLOUD_PROJECT"
    grant "$api" roles/cloudtasks.enqueuer 'tasks queues' "$TASKS_QUEUE" --location="$TASKS_LOCATION"
    grant "$api" roles/iam.serviceAccountUser 'iam service-accounts' "$invoker"
    grant "$worker" roles/datastore.user projects "$GOOGLE_CLOUD_PROJECT"
    grant "$worker" roles/cloudtasks.enqueuer 'tasks queues' "$TASKS_QUEUE" --location="$TASKS_LOCATION"
    grant "$worker" roles/iam.serviceAccountUser 'iam service-accounts' "$invoker"
    each_key readable
    grant "$builder" roles/run.builder projects "$GOOGLE_CLOUD_PROJECT"

    # The worker is deployed first, because it must understand the tasks of the new api.
    function_of worker "$worker" "$WORKER_CONCURRENCY" "$WORKER_MIN_INSTANCES" "$WORKER_MAX_INSTANCES" \
        --timeout="$WORKER_TIMEOUT" --no-allow-unauthenticated "$(secrets_flag)"
    grant "$invoker" roles/run.invoker 'run services' "$HOLDFAST_NAME-worker" --region="$REGION"
    function_of api "$api" "$API_CONCURRENCY" "$API_MIN_INSTANCES" "$API_MAX_INSTANCES" \
        --timeout="$API_TIMEOUT" --allow-unauthenticated

    answers "$WORKER_URL" 403 'should be private'
    answers "$api_url/v1/models" 401 'should be public'
    farewell
}

destroy() {
    local there each
    [ "$yes$dry" ] || [ -t 0 ] || fail 'There is no terminal to ask on: say ./deploy.sh destroy --yes'
    agreed "$yes" "Remove the services, the queue, the secrets and the accounts of $HOLDFAST_NAME from $GOOGLE_CLOUD_PROJECT?" ||
        fail 'Nothing was removed.'

    there=$(look run services list --region="$REGION" --format='value(metadata.name)')
    for each in api worker; do
        gone "$HOLDFAST_NAME-$each" "$there" run services delete "$HOLDFAST_NAME-$each" --region="$REGION"
    done

    there=$(look tasks queues list --location="$TASKS_LOCATION" --format='value(name.basename())')
    gone "$TASKS_QUEUE" "$there" tasks queues delete "$TASKS_QUEUE" --location="$TASKS_LOCATION"

    there=$(look secrets list --filter="labels.holdfast=$HOLDFAST_NAME" --format='value(name.basename())')
    [ -z "$dry" ] || there=$(secret_name UPSTREAM_API_KEY)
    for each in $there; do
        gone "$each" "$there" secrets delete "$each"
    done

    revoke "$api" roles/datastore.user
    revoke "$worker" roles/datastore.user
    revoke "$builder" roles/run.builder
    there=$(look iam service-accounts list --format='value(email)')
    for each in "$api" "$worker" "$invoker" "$builder"; do
        gone "$each" "$there" iam service-accounts delete "$each"
    done

    there="Not removed: the database $FIRESTORE_DATABASE with its messages and rules, the APIs, the images in Artifact Registry
(cloud-run-source-deploy) and the uploads (gs://run-sources-$GOOGLE_CLOUD_PROJECT-$REGION). The queue's name can't be
used again for some days: to deploy before that, set TASKS_QUEUE to another."
    [ -z "$dry" ] || note 'After a second yes, or with --delete-data:'
    if agreed "$delete_data" "Delete all generations, requests and journals in the database $FIRESTORE_DATABASE, too?"; then
        delete_data
    else
        there="Not deleted: all generations, requests and journals. $there"
    fi
    note "$there"
}

# The resources: each is read, and changed if it differs

apis() {
    local name
    local -a missing=()
    for name in "$@"; do
        has "$name.googleapis.com" "$enabled" || missing+=("$name.googleapis.com")
    done
    [ ${#missing[@]} = 0 ] || change services enable "${missing[@]}"
}

account() {
    [ "${accounts+known}" ] || accounts=$(look iam service-accounts list --format='value(email)')
    has "$1" "$accounts" || change iam service-accounts create "${1%%@*}" --display-name="$2"
}

grant() { # member, role, kind of resource, name of the resource, and its location
    local member=serviceAccount:$1 role=$2 granted
    local -a kind on=("${@:4}")
    read -r -a kind <<<"$3"
    granted=$(look "${kind[@]}" get-iam-policy "${on[@]}" --format=json | ask granted "$member" "$role")
    [ -z "$granted" ] || return 0
    [ "$3" = 'tasks queues' ] || on+=(--condition=None)
    persist "${kind[@]}" add-iam-policy-binding "${on[@]}" --member="$member" --role="$role"
}

revoke() {
    local member=serviceAccount:$1 granted
    granted=$(look projects get-iam-policy "$GOOGLE_CLOUD_PROJECT" --format=json | ask granted "$member" "$2")
    [ -z "$granted$dry" ] ||
        change projects remove-iam-policy-binding "$GOOGLE_CLOUD_PROJECT" --member="$member" --role="$2" --condition=None
}

database() {
    [ -n "$database_type" ] || change firestore databases create --database="$FIRESTORE_DATABASE" \
        --location="$FIRESTORE_LOCATION" --type=firestore-native --delete-protection
}

rules() {
    local project=projects/$GOOGLE_CLOUD_PROJECT ruleset release
    release=$project/releases/$rules_release
    [ "$rules_differ" ] || return 0
    ruleset=$(ask ruleset "$RULES_NAME")
    ruleset=$(firebase POST "$project/rulesets" <<<"$ruleset" | ask name "$project/rulesets/RULESET")
    if [ "$rules_differ" = new ]; then
        firebase POST "$project/releases" <<<"{\"name\": \"$release\", \"rulesetName\": \"$ruleset\"}" >/dev/null
    else
        firebase PATCH "$release" <<<"{\"release\": {\"name\": \"$release\", \"rulesetName\": \"$ruleset\"}}" >/dev/null
    fi
}

# gcloud has no command for rules. The Firebase CLI needs Node.js and its own login, but the API that it calls does not.
firebase() { # method, path; the body is on stdin and the token on a descriptor, so that neither is in a command line
    local -a line=(curl --silent --show-error --fail-with-body --max-time 60 --request "$1" --header @/dev/fd/4)
    line+=(--header "X-Goog-User-Project: $GOOGLE_CLOUD_PROJECT")
    [ "$1" = GET ] || line+=(--header 'Content-Type: application/json' --data-binary @-)
    line+=("https://firebaserules.googleapis.com/v1/$2")
    if [ "$1" = GET ]; then said '# ' "${line[@]}"; else said '' "${line[@]}"; fi
    [ "$dry" ] || "${line[@]}" 4< <(printf 'Authorization: Bearer %s\n' "$token")
}

indexes() { # indexes, exemptions and expiry, from the file that the Firebase CLI reads too
    local composites fields expiring line
    local -a words
    composites=$(look firestore indexes composite list --database="$FIRESTORE_DATABASE" --format=json)
    fields=$(look firestore indexes fields list --database="$FIRESTORE_DATABASE" --format=json)
    expiring=$(look firestore fields ttls list --database="$FIRESTORE_DATABASE" --format=json)
    ask indexes "$composites" "$fields" "$expiring" | while IFS= read -r line; do
        read -r -a words <<<"$line"
        persist firestore "${words[@]}" --database="$FIRESTORE_DATABASE"
    done
}

queue() {
    local there
    there=$(look tasks queues list --location="$TASKS_LOCATION" --format=json | ask queue "$TASKS_QUEUE" "$@")
    [ "$there" = same ] || change tasks queues "${there:-create}" "$TASKS_QUEUE" --location="$TASKS_LOCATION" "$@"
}

dispatches() { # at most as many as the workers accept
    local most=$((WORKER_CONCURRENCY * WORKER_MAX_INSTANCES))
    echo $((most < MOST_DISPATCHES ? most : MOST_DISPATCHES))
}

secret() {
    local name key version kept=''
    name=$(secret_name "$1")
    key=$(given "$1")
    has "$name" "$stored" ||
        change secrets create "$name" --replication-policy=automatic --labels=holdfast="$HOLDFAST_NAME"
    version=$(newest "$name")
    if [ "$key" ] && [ "$version" ]; then
        kept=$(look secrets versions access "$version" --secret="$name")
    fi
    if [ "$dry" ] || [ "${key:-$kept}" != "$kept" ]; then
        change secrets versions add "$name" --data-file=- < <(printf %s "$key")
        version=$(newest "$name")
    fi
    set_secrets+=${set_secrets:+,}$1=$name:${version:-1}
}

newest() { # revisions are bound to a secret's version, so that a rollback restores the key too
    look secrets versions list "$1" --format=json | ask newest
}

readable() {
    grant "$worker" roles/secretmanager.secretAccessor secrets "$(secret_name "$1")"
}

secret_name() {
    echo "$HOLDFAST_NAME-$1" | tr 'A-Z_' 'a-z-'
}

secrets_flag() {
    if [ "$set_secrets" ]; then echo "--set-secrets=$set_secrets"; else echo --clear-secrets; fi
}

function_of() { # target, account, concurrency, minimum and maximum instances, and further flags
    local name=$HOLDFAST_NAME-$1 environment mark there ready latest share
    local -a flags=(--source=. --function="$1" --base-image=python313 --region="$REGION" --service-account="$2"
        --build-service-account="projects/$GOOGLE_CLOUD_PROJECT/serviceAccounts/$builder"
        --concurrency="$3" --min-instances="$4" --max-instances="$5" --cpu=1 --memory=1Gi --cpu-boost "${@:6}")
    environment=$(ask environment)
    flags+=(--set-env-vars="^|^$environment|THREADS=$(($3 + SPARE_THREADS))")
    mark=$(ask digest "${flags[@]}")
    flags+=(--labels=holdfast="$mark")
    there=$(look run services list --region="$REGION" --format=json | ask service "$name")
    if [ -z "$there" ]; then
        change run deploy "$name" "${flags[@]}"
        return
    fi
    read -r ready latest share <<<"$there"
    if [ "$force" ] || [ "$ready" != "$mark" ]; then
        if [ "$canary" ]; then
            flags+=(--no-traffic --tag=canary)
            share=0
        fi
        change run deploy "$name" "${flags[@]}"
    fi
    if [ "$canary" ]; then
        [ "$share" = none ] || [ "$share" = "$canary" ] ||
            change run services update-traffic "$name" --region="$REGION" --to-tags=canary="$canary"
    elif [ "$share" != none ]; then
        change run services update-traffic "$name" --region="$REGION" --to-latest --remove-tags=canary
    elif [ "$latest" != latest ]; then
        change run services update-traffic "$name" --region="$REGION" --to-latest
    fi
}

delete_data() {
    local line composites collections
    local -a words
    collections=$(ask expiring)
    [ -n "$collections" ] || fail 'firestore.indexes.json names no collection that expires: nothing was deleted.'
    change firestore bulk-delete --database="$FIRESTORE_DATABASE" --collection-ids="$collections"
    composites=$(look firestore indexes composite list --database="$FIRESTORE_DATABASE" --format=json)
    ask unindexed "$composites" | while IFS= read -r line; do
        read -r -a words <<<"$line"
        persist firestore "${words[@]}" --database="$FIRESTORE_DATABASE"
    done
}

answers() { # checks that an unauthenticated request to this URL gets this status
    local status='' try
    local -a line=(curl --silent --output /dev/null --max-time 30 --write-out '%{http_code}' "$1")
    said '# ' "${line[@]}"
    [ -z "$dry" ] || return 0
    for try in 1 2 3 4 5 6; do
        status=$("${line[@]}") || true
        [ "$status" != "$2" ] || return 0
        [ "$try" = 6 ] || sleep 5
    done
    fail "$1 $3: it answers $status, not $2. See its log. If it was changed by hand, run ./deploy.sh --force. If a policy
of your organisation forbids it, ask for an exception."
}

farewell() {
    local header='' model
    model=$(ask model)
    [ "${APP_CHECK:-off}" = off ] || header=" -H \"X-Firebase-AppCheck: \$APP_CHECK_TOKEN\""
    note "
The API is at $api_url

A user's Firebase ID token is the key. From a shell:

curl -N $api_url/v1/chat/completions -H \"Authorization: Bearer \$TOKEN\"$header \\
  -H 'Content-Type: application/json' \\
  -d '{\"model\": \"$model\", \"stream\": true, \"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}'

From an app, with its user signed in:

import { getFunctions, httpsCallableFromURL } from 'firebase/functions';
const ask = httpsCallableFromURL(getFunctions(), '$api_url');
const { stream, data } = await ask.stream({ model: '$model', messages: [{ role: 'user', content: 'Hi' }] });
for await (const { delta } of stream) if (delta) console.log(delta);
console.log((await data).state);"
}

# Checks before anything is changed

read_file() {
    local line
    [ -f deploy.env ] || return 0
    while IFS= read -r line || [ -n "$line" ]; do
        [[ -n $line && $line != '#'* ]] || continue
        [[ $line =~ ^[A-Z][A-Z0-9_]*= ]] || fail "deploy.env: '$line' is not VARIABLE=value"
        unless_set "${line%%=*}" "${line#*=}"
    done <deploy.env
}

check_variables() {
    local name faults=''
    needed GOOGLE_CLOUD_PROJECT my-project
    if [ "$command" = deploy ] && [ -z "${UPSTREAMS_FILE:-}" ]; then
        needed UPSTREAM_BASE_URL https://api.openai.com/v1
    fi
    [ -z "$faults" ] || fail "${faults%?}"

    unless_set HOLDFAST_NAME holdfast
    unless_set REGION us-central1
    unless_set FIRESTORE_LOCATION "$REGION"
    unless_set FIRESTORE_DATABASE '(default)'
    unless_set TASKS_LOCATION "$REGION"
    unless_set TASKS_QUEUE "$HOLDFAST_NAME"
    unless_set API_CONCURRENCY 80
    unless_set API_MIN_INSTANCES 0
    unless_set API_MAX_INSTANCES 20
    unless_set WORKER_CONCURRENCY 40
    unless_set WORKER_MIN_INSTANCES 0
    unless_set WORKER_MAX_INSTANCES 25
    unset "${LOCAL[@]}"

    [[ $HOLDFAST_NAME =~ ^[a-z][a-z0-9-]{0,20}[a-z0-9]$ ]] ||
        fail "HOLDFAST_NAME: it must be 2 to 22 small letters, digits and hyphens, and is '$HOLDFAST_NAME'"
    for name in {API,WORKER}_{CONCURRENCY,MAX_INSTANCES}; do
        [[ ${!name} =~ ^([1-9][0-9]{0,2}|1000)$ ]] || fail "$name: it must be a whole number from 1 to 1000, and is '${!name}'"
    done
    for name in {API,WORKER}_MIN_INSTANCES; do
        [[ ${!name} =~ ^(0|[1-9][0-9]{0,2})$ ]] || fail "$name: it must be a whole number from 0 to 999, and is '${!name}'"
    done
    [[ ${RULES:-keep} =~ ^(keep|replace)$ ]] || fail "RULES: it must be replace or keep, and is '$RULES'"
    [[ ${UPSTREAMS_FILE:-upstreams.toml} == upstreams.toml ]] ||
        fail 'UPSTREAMS_FILE: it must be upstreams.toml, beside this script: no other is uploaded'
    name_all PROJECT_NUMBER
}

needed() {
    [ -z "${!1:-}" ] || return 0
    if [ "$dry" ]; then
        note "$1 is not set: '$2' stands in for it here. Without it, nothing would be deployed."
        export "$1=$2"
    else
        faults+="$1: it must be set: see ./deploy.sh --help"$'\n'
    fi
}

check_tools() {
    "$PYTHON" -c 'import tomllib' 2>/dev/null || fail "There is no Python 3.11 or newer at $PYTHON: install one, or set PYTHON to it."
    [ -z "$dry" ] || return 0
    command -v gcloud >/dev/null || fail 'There is no gcloud: install it, see https://cloud.google.com/sdk/docs/install'
    command -v curl >/dev/null || fail 'There is no curl: install it.'
}

check_settings() {
    keys=$(ask keys) || fail 'Nothing was changed.'
    each_key take
    unset UPSTREAM_API_KEY
    ask environment "$API_TIMEOUT" >/dev/null || fail 'Nothing was changed.'
}

take() { # a key, into a variable that commands run from here do not inherit
    local file=${1}_FILE value=${!1:-}
    if [ "${!file:-}" = - ]; then
        value=$(cat)
    elif [ -n "${!file:-}" ]; then
        value=$(cd "$from" && cat "${!file}") || fail "$file: it can't be read."
    fi
    [ -z "${!file:-}" ] || [ -n "$value" ] || fail "$file: there is no key in it."
    printf -v "key_$1" %s "$value"
    unset "$1"
}

given() {
    local name=key_$1
    printf %s "${!name:-}"
}

check_login() {
    local number
    [ -z "$dry" ] || return 0
    token=$(gcloud auth print-access-token 2>/dev/null) || fail "Nobody is logged in: run 'gcloud auth login'."
    number=$(gcloud projects describe "$GOOGLE_CLOUD_PROJECT" --format='value(projectNumber)' 2>/dev/null) ||
        fail "GOOGLE_CLOUD_PROJECT: there is no project '$GOOGLE_CLOUD_PROJECT' for this login: see 'gcloud auth list'."
    name_all "$number"
}

name_all() { # sets all names; takes the project's number
    local host=$GOOGLE_CLOUD_PROJECT.iam.gserviceaccount.com
    api=$HOLDFAST_NAME-api@$host worker=$HOLDFAST_NAME-worker@$host
    invoker=$HOLDFAST_NAME-invoker@$host builder=$HOLDFAST_NAME-builder@$host
    # Cloud Run's URLs are known before a service exists, so the worker can know its own URL and the api the worker's.
    api_url=https://$HOLDFAST_NAME-api-$1.$REGION.run.app
    export TASKS_INVOKER=$invoker WORKER_URL=https://$HOLDFAST_NAME-worker-$1.$REGION.run.app
}

check_project() {
    enabled=$(look services list --enabled --format='value(config.name)')
    stored='' database_type='' rules_differ=new set_secrets=''
    if has secretmanager.googleapis.com "$enabled"; then
        stored=$(look secrets list --format='value(name.basename())')
    fi
    each_key check_key
    if has firestore.googleapis.com "$enabled"; then
        database_type=$(look firestore databases list --format=json | ask database "$FIRESTORE_DATABASE")
    fi
    [ "${database_type:-FIRESTORE_NATIVE}" = FIRESTORE_NATIVE ] ||
        fail "FIRESTORE_DATABASE: $FIRESTORE_DATABASE is in Datastore mode: name another, and it will be created."
    check_rules
}

check_key() {
    if [ -n "$(given "$1")" ] || { has "$(secret_name "$1")" "$stored" && [ -n "$(newest "$(secret_name "$1")")" ]; }; then
        return 0
    elif [ "$dry" ]; then
        note "$1 is not set: nothing would be deployed unless its secret is there."
    else
        fail "$1: it must be set, or ${1}_FILE, as it is not stored yet; UPSTREAM_API_KEY=none if the upstream has none"
    fi
}

check_rules() {
    local releases ruleset deployed
    rules_release=cloud.firestore
    [ "$FIRESTORE_DATABASE" = '(default)' ] || rules_release+=/$FIRESTORE_DATABASE
    has firebaserules.googleapis.com "$enabled" || return 0
    releases=$(firebase GET "projects/$GOOGLE_CLOUD_PROJECT/releases?pageSize=100")
    ruleset=$(ask release "projects/$GOOGLE_CLOUD_PROJECT/releases/$rules_release" <<<"$releases")
    [ -n "$ruleset" ] || return 0
    deployed=$(firebase GET "$ruleset" | ask rules "$RULES_NAME")
    case $deployed-${RULES:-} in
        same-* | *-keep) rules_differ='' ;;
        ours-* | *-replace) rules_differ=yes ;;
        *) fail "RULES: the database $FIRESTORE_DATABASE has rules of its own. Say replace, or merge firestore.rules into them and say keep." ;;
    esac
}

# Helpers

look() { # runs a command that only reads; a dry run does not run it, and finds nothing
    said '# ' gcloud "$@" --project="$GOOGLE_CLOUD_PROJECT" --quiet
    [ "$dry" ] || gcloud "$@" --project="$GOOGLE_CLOUD_PROJECT" --quiet </dev/null
}

change() {
    said '' gcloud "$@" --project="$GOOGLE_CLOUD_PROJECT" --quiet
    [ "$dry" ] || gcloud "$@" --project="$GOOGLE_CLOUD_PROJECT" --quiet >/dev/null
}

persist() { # changes with retries: a new resource may not be visible everywhere yet, or an operation still be running
    local try
    said '' gcloud "$@" --project="$GOOGLE_CLOUD_PROJECT" --quiet
    for try in 1 2 3 4 5 6; do
        [ -z "$dry" ] || return 0
        ! gcloud "$@" --project="$GOOGLE_CLOUD_PROJECT" --quiet >/dev/null </dev/null || return 0
        [ "$try" = 6 ] || sleep 10
    done
    fail 'That failed six times. Earlier steps are complete: run this again.'
}

gone() { # a name, the list of existing ones, and the command that removes it
    [ "$dry" ] || has "$1" "$2" || return 0
    change "${@:3}"
}

has() { # whether a text contains a line
    case $'\n'$2$'\n' in *$'\n'"$1"$'\n'*) ;; *) return 1 ;; esac
}

each_key() {
    local key
    for key in $keys; do "$1" "$key"; done
}

unless_set() {
    [ -n "${!1:-}" ] || export "$1=$2"
}

agreed() { # an answer given by an option, and the question to ask without one
    local answer=$1
    if [ -z "$answer" ] && [ -z "$dry" ] && [ -t 0 ]; then
        read -r -p "$2 (yes/no) " answer
    fi
    [ "$answer" = yes ] || [ "$dry" ]
}

said() { # prints a command, quoted for a shell; in a real run, only those that change something
    local lead=$1 word quote="'" quoted="'\\''" line=''
    [ -z "$lead" ] || [ "$dry" ] || return 0
    for word in "${@:2}"; do
        case $word in
            '' | *[!A-Za-z0-9_@%+=:,./-]*) line+=" '${word//$quote/$quoted}'" ;;
            *) line+=" $word" ;;
        esac
    done
    printf '%s%s\n' "$lead" "${line# }" >&3
}

note() {
    if [ "$dry" ]; then printf '%s\n' "$1" | sed 's/^/# /; s/ $//' >&3; else printf '%s\n' "$1" >&3; fi
}

fail() {
    printf '%s\n' "$1" >&2
    exit 1
}

# In Python: JSON and the settings

ask() {
    "$PYTHON" -BS -c "$ANSWERS" "$@"
}

IFS= read -r -d '' ANSWERS <<'END' || true
import json, os, sys

question, *given = sys.argv[1:]
UPSTREAM = tuple(
    f"UPSTREAM_{name}" for name in ("AUTH", "BASE_URL", "CONTINUE", "HEADERS", "MODELS", "PREFILL_STYLE", "QUERY", "SPEAKS", "USAGE")
) + ("UPSTREAMS_FILE",)
HERE = {"TASKS_LOCATION": "REGION", "TASKS_QUEUE": "HOLDFAST_NAME"}


def text(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def read():
    return json.loads(sys.stdin.read().strip() or "[]")


def rules():
    from operations.rules import rules_for

    return rules_for(os.environ)


def settings():
    from lib.domain.errors import ConfigurationError
    from lib.runtime.settings import Settings

    try:
        return Settings.from_env(os.environ)
    except ConfigurationError as error:
        sys.exit(str(error))


def variables():
    from dataclasses import fields
    from lib.runtime.settings import Settings

    return [field.metadata for field in fields(Settings) if field.metadata]


def place(resource):
    """Parses a resource name of Firestore's admin API: the collection, and the field or index."""
    return tuple(resource["name"].split("/")[5::2])


def kind(field):
    """The flag for a field's order or array configuration."""
    return f"order={field['order']}".lower() if "order" in field else f"array-config={field.get('arrayConfig')}".lower()


def composite(index, collection):
    """An index without the document name, which every index ends with implicitly."""
    columns = [(field["fieldPath"], kind(field)) for field in index["fields"] if field["fieldPath"] != "__name__"]
    return collection, index["queryScope"], tuple(columns)


def single(config):
    """The indexes of one field, each with its scope. The file has the order directly in the index."""
    return {(each["queryScope"], kind(each.get("fields", [each])[0])) for each in config.get("indexes", [])}


def overrides():
    for each in json.loads(text("firestore.indexes.json"))["fieldOverrides"]:
        if {scope for scope, _ in single(each)} - {"COLLECTION"}:
            sys.exit("firestore.indexes.json: gcloud makes a field's indexes for single collections only")
        yield each["collectionGroup"], each["fieldPath"], single(each), each.get("ttl", False)


def wanted():
    indexes = json.loads(text("firestore.indexes.json"))["indexes"]
    return [composite(index, index["collectionGroup"]) for index in indexes]


def seconds(value):
    return float(str(value).rstrip("s"))


match question:
    case "help":
        for each in variables():
            if (name := each["variable"]) not in given:
                default = HERE.get(name, each["default"])
                days = f"{default.days}" if hasattr(default, "days") else default
                shown = ",".join(days) if isinstance(days, tuple) else days
                shown = f"{shown:g}" if isinstance(shown, float) else shown
                print(f"  {name:<27} {each['about']} {shown} unless set.")
    case "keys":
        from lib.runtime import catalog
        from lib.domain.errors import ConfigurationError

        environ = {**os.environ, "UPSTREAM_API_KEY": os.environ.get("UPSTREAM_API_KEY") or "kept"}
        if environ["UPSTREAM_API_KEY"] == "none":
            del environ["UPSTREAM_API_KEY"]
        try:
            upstreams = catalog.load(environ)
        except ConfigurationError as error:
            sys.exit(str(error))
        keys = sorted({upstreams[name].key_env for _, name in upstreams.models()} - {None})
        for key in keys:
            if not (key.isascii() and key.isidentifier() and key.isupper()):
                sys.exit(f"UPSTREAMS_FILE: key_env must be a name such as OPENAI_API_KEY, and is '{key}'")
        print(*keys)
    case "environment":
        current = settings()
        names = [each["variable"] for each in variables()] + list(UPSTREAM)
        values = {name: os.environ[name] for name in names if os.environ.get(name, "").strip()}
        faults = [f"{name}: it must have no '|' and no line break" for name in values if set("|\n") & set(values[name])]
        longest = current.response_seconds + current.status_wait_seconds + current.send_seconds
        if given and longest >= float(given[0]):
            faults.append(f"RESPONSE_SECONDS: with STATUS_WAIT_SECONDS and SEND_SECONDS it must be below {given[0]}")
        if faults:
            sys.exit("\n".join(faults))
        print("|".join(f"{name}={value}" for name, value in values.items()))
    case "model":
        names = [name for name, _ in settings().catalog.models() if not name.endswith("*")]
        print(*names[:1] or ["MODEL"])
    case "digest":
        import glob, hashlib

        digest = hashlib.sha256(json.dumps(given).encode())
        uploaded = ("main.py", "requirements.txt", "upstreams.toml", "lib/**/*.py")
        for path in sorted(path for pattern in uploaded for path in glob.glob(pattern, recursive=True)):
            digest.update(json.dumps([path, text(path)]).encode())
        print(digest.hexdigest()[:40])
    case "granted":
        member, role = given
        for binding in dict(read()).get("bindings", []):
            if binding["role"] == role and member in binding["members"] and "condition" not in binding:
                print("yes")
    case "database":
        for database in read():
            if database["name"].endswith(f"/databases/{given[0]}"):
                print(database["type"])
    case "release":
        for release in dict(read()).get("releases", []):
            if release["name"] == given[0]:
                print(release["rulesetName"])
    case "rules":
        files = read()["source"]["files"]
        same = [file["content"] for file in files] == [rules()]
        print("same" if same else "ours" if files[0]["name"] == given[0] else "theirs")
    case "ruleset":
        file = {"name": given[0], "content": rules()}
        print(json.dumps({"source": {"files": [file]}}))
    case "name":
        print(dict(read()).get("name", given[0]))
    case "newest":
        versions = [int(each["name"].rpartition("/")[2]) for each in read() if each["state"] == "ENABLED"]
        print(max(versions, default=""))
    case "queue":
        name, *flags = given
        for queue in read():
            if queue["name"].endswith(f"/queues/{name}"):
                there = {**queue.get("rateLimits", {}), **queue.get("retryConfig", {})}
                for flag in flags:
                    words, _, value = flag.removeprefix("--").partition("=")
                    first, *rest = words.split("-")
                    if seconds(there.get(first + "".join(map(str.title, rest)), "-1")) != seconds(value):
                        print("update")
                        break
                else:
                    print("same")
    case "service":
        for service in read():
            if service["metadata"]["name"] == given[0]:
                conditions = {each["type"]: each["status"] for each in service.get("status", {}).get("conditions", [])}
                ready = conditions.get("Ready") == "True"
                traffic = service["spec"].get("traffic", [])
                latest = any(each.get("latestRevision") and each.get("percent") == 100 for each in traffic)
                shares = [each.get("percent", 0) for each in traffic if each.get("tag") == "canary"]
                mark = service["metadata"].get("labels", {}).get("holdfast", "unmarked")
                print(mark if ready else "unready", "latest" if latest else "split", *shares or ["none"])
    case "indexes":
        composites, fields, expiring = (json.loads(each or "[]") for each in given)
        there = {composite(each, place(each)[0]) for each in composites}
        for index in wanted():
            if index not in there:
                collection, scope, columns = index
                columns = [f"--field-config=field-path={path},{flag}" for path, flag in columns]
                scope = scope.lower().replace("_", "-")
                flags = f"--collection-group={collection} --query-scope={scope} --async"
                print(f"indexes composite create {flags}", *columns)
        exempt = {place(each): single(each["indexConfig"]) for each in fields}
        mortal = {place(each) for each in expiring}
        for collection, path, indexes, ttl in overrides():
            if exempt.get((collection, path), exempt.get((collection, "*"))) != indexes:
                flags = [f"--index={flag}" for _, flag in sorted(indexes)] or ["--disable-indexes"]
                print(f"indexes fields update {path} --collection-group={collection} --async", *flags)
                exempt[collection, path] = indexes
            if ttl and (collection, path) not in mortal:
                print(f"fields ttls update {path} --collection-group={collection} --async --enable-ttl")
    case "expiring":
        print(",".join(collection for collection, _, _, ttl in overrides() if ttl))
    case "unindexed":
        there = {composite(each, place(each)[0]): place(each)[1] for each in json.loads(given[0])} if given[0] else {}
        for index in wanted():
            if index in there or not given[0]:
                print(f"indexes composite delete {there.get(index, 'INDEX')}")
        expiring = {collection for collection, _, _, ttl in overrides() if ttl}
        inherited = {collection: indexes for collection, path, indexes, _ in overrides() if path == "*"}
        for collection, path, indexes, ttl in overrides():
            if ttl:
                print(f"fields ttls update {path} --collection-group={collection} --async --disable-ttl")
            if collection in expiring and (path == "*" or indexes != inherited.get(collection)):
                print(f"indexes fields update {path} --collection-group={collection} --async --clear-exemption")
END

exec 3>&1 # for messages from within a $(...)
command=deploy dry='' force='' canary='' yes='' delete_data='' keys='' token=''
for argument in "$@"; do
    case $argument in
        deploy | destroy) command=$argument ;;
        --dry-run) dry=yes ;;
        --force) force=yes ;;
        --canary=[1-9] | --canary=[1-9][0-9]) canary=${argument#*=} ;;
        --canary=100) canary='' ;;
        --yes) yes=yes ;;
        --delete-data) delete_data=yes ;;
        -h | --help) command=usage ;;
        *) fail "Unknown argument '$argument': see ./deploy.sh --help" ;;
    esac
done

[ "$command" = usage ] || read_file
unless_set PYTHON python3
if [ "$command" = usage ]; then
    usage
    exit
fi
check_variables
check_tools
[ "$command" = destroy ] || check_settings
check_login
[ "$command" = destroy ] || check_project
"$command"

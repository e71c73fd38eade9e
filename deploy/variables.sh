# shellcheck shell=bash
# The variables: what each is for, where it is read from, what it is unless set, and what it must look like.

OWN=(GOOGLE_CLOUD_PROJECT WORKER_URL TASKS_INVOKER) # settings that this script determines
LOCAL=(FIRESTORE_EMULATOR_HOST TASKS_EMULATOR_HOST FIREBASE_AUTH_EMULATOR_HOST OIDC_CERTS_URL APP_CHECK_KEYS_URL FCM_URL)

usage() {
    cat <<'USAGE'
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
  UPSTREAM_SPEAKS, UPSTREAM_USAGE, UPSTREAM_BACKGROUND, UPSTREAM_ACCOUNT_IDS
                         its APIs, whether it is asked for a stream's usage, whether it generates in the background, and
                         whether users may name by ids what it keeps for its account: see the README
  UPSTREAM_AUTH, UPSTREAM_HEADERS, UPSTREAM_QUERY
                         where the key goes, and what goes with every call: see the README
  UPSTREAM_PRICES        what a million tokens of its models cost, for budgets in money: see docs/operations.md
  UPSTREAM_API_KEY       its key, which is stored in Secret Manager: must be set when it is new; "none" for no key
  UPSTREAM_API_KEY_FILE  the file that contains the key, instead of the key; "-" is stdin
  UPSTREAMS_FILE         upstreams.toml, beside this script, for several upstreams: see the README. The keys are the
                         variables that its key_env name, and each may be in a file: OPENAI_API_KEY_FILE
  WEBHOOK_SECRETS        what webhooks are signed with, where WEBHOOK_URL is set: one secret, or two with a space between
                         while they are rotated. It is stored in Secret Manager too, and may be in a file:
                         WEBHOOK_SECRETS_FILE
  HOLDFAST_NAME          the name of all resources: holdfast unless set. A project can have two deployments, each with
                         its own FIRESTORE_DATABASE
  REGION                 where the functions run: us-central1 unless set. A run with another one adds that region: see
                         docs/deploy.md
  FIRESTORE_LOCATION     where the database is created if there is none: REGION unless set
  RULES                  replace or keep: what to do with existing security rules of the application
  API_CONCURRENCY, API_MIN_INSTANCES, API_MAX_INSTANCES
                         80 simultaneous streams per instance, and 0 to 8 instances, unless set
  WORKER_CONCURRENCY, WORKER_MIN_INSTANCES, WORKER_MAX_INSTANCES
                         40 simultaneous answers per instance, and 0 to 12 instances, unless set. Each instance has a
                         vCPU, and a new project has 20 in a region
  PYTHON                 a Python 3.11 or newer, for this script: python3 unless set

In an organisation (see docs/deploy.md):

  PUBLIC                 how everybody may call the api: iam grants it to allUsers; no-check turns Cloud Run's own check
                         off, where a policy refuses allUsers. iam unless set
  INGRESS                from where the api can be called: all, internal or internal-and-cloud-load-balancing. The worker
                         is then internal. all unless set
  VPC                    NETWORK or NETWORK,SUBNET: the functions' way out; none unless set
  VPC_EGRESS             what goes that way: private-ranges-only or all-traffic; private-ranges-only unless set
  KMS_KEY                projects/…/locations/REGION/keyRings/…/cryptoKeys/…: encrypts the functions, new secrets and a
                         new database; Google's own keys unless set
  EDITION                the edition of a new database, as gcloud's --edition: standard, which Holdfast needs, unless set

The functions' settings:

USAGE
    ask help "${OWN[@]}" "${LOCAL[@]}"
}

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
        [ -z "$dry" ] || needed UPSTREAM_MODELS gpt-4o # without one, the check of the settings says what it is for
    fi
    [ -z "$faults" ] || fail "${faults%?}"

    unless_set HOLDFAST_NAME holdfast
    unless_set REGION us-central1
    unless_set FIRESTORE_LOCATION "$REGION"
    unless_set FIRESTORE_DATABASE '(default)'
    unless_set TASKS_LOCATION "$REGION"
    unless_set TASKS_QUEUE "$HOLDFAST_NAME"
    unless_set TASKS_QUEUES 1
    unless_set API_CONCURRENCY 80
    unless_set API_MIN_INSTANCES 0
    unless_set API_MAX_INSTANCES 8
    unless_set WORKER_CONCURRENCY 40
    unless_set WORKER_MIN_INSTANCES 0
    unless_set WORKER_MAX_INSTANCES 12
    unless_set PUBLIC iam
    unless_set INGRESS all
    unless_set VPC ''
    unless_set VPC_EGRESS private-ranges-only
    unless_set KMS_KEY ''
    unless_set EDITION standard
    unset "${LOCAL[@]}"

    [[ $HOLDFAST_NAME =~ ^[a-z][a-z0-9-]{0,20}[a-z0-9]$ ]] ||
        fail "HOLDFAST_NAME: it must be 2 to 22 small letters, digits and hyphens, and is '$HOLDFAST_NAME'"
    for name in {API,WORKER}_{CONCURRENCY,MAX_INSTANCES}; do
        [[ ${!name} =~ ^([1-9][0-9]{0,2}|1000)$ ]] || fail "$name: it must be a whole number from 1 to 1000, and is '${!name}'"
    done
    for name in {API,WORKER}_MIN_INSTANCES; do
        [[ ${!name} =~ ^(0|[1-9][0-9]{0,2})$ ]] || fail "$name: it must be a whole number from 0 to 999, and is '${!name}'"
    done
    [[ $TASKS_QUEUES =~ ^([1-9][0-9]?|100)$ ]] ||
        fail "TASKS_QUEUES: it must be a whole number from 1 to 100, and is '$TASKS_QUEUES'"
    [[ ${RULES:-keep} =~ ^(keep|replace)$ ]] || fail "RULES: it must be replace or keep, and is '$RULES'"
    [[ ${UPSTREAMS_FILE:-upstreams.toml} == upstreams.toml ]] ||
        fail 'UPSTREAMS_FILE: it must be upstreams.toml, beside this script: no other is uploaded'
    check_organisation
    name_all PROJECT_NUMBER
}

check_organisation() {
    local key
    [[ $PUBLIC =~ ^(iam|no-check)$ ]] || fail "PUBLIC: it must be iam or no-check, and is '$PUBLIC'"
    [[ $INGRESS =~ ^(all|internal|internal-and-cloud-load-balancing)$ ]] ||
        fail "INGRESS: it must be all, internal or internal-and-cloud-load-balancing, and is '$INGRESS'"
    [[ $VPC =~ ^([^,]+(,[^,]+)?)?$ ]] || fail "VPC: it must be NETWORK or NETWORK,SUBNET, and is '$VPC'"
    [[ $VPC_EGRESS =~ ^(private-ranges-only|all-traffic)$ ]] ||
        fail "VPC_EGRESS: it must be private-ranges-only or all-traffic, and is '$VPC_EGRESS'"
    key="^(projects/[^/]+/locations/$REGION/keyRings/[^/]+/cryptoKeys/[^/]+)?$"
    [[ $KMS_KEY =~ $key ]] ||
        fail "KMS_KEY: it must be projects/…/locations/$REGION/keyRings/…/cryptoKeys/…, and is '$KMS_KEY'"
    [ "$EDITION" = standard ] ||
        fail "EDITION: it must be standard, and is '$EDITION': other editions take no index exemptions, which Holdfast needs"
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

unless_set() {
    [ -n "${!1:-}" ] || export "$1=$2"
}

name_all() { # sets all names; takes the project's number
    local host=$GOOGLE_CLOUD_PROJECT.iam.gserviceaccount.com
    api=$HOLDFAST_NAME-api@$host worker=$HOLDFAST_NAME-worker@$host
    invoker=$HOLDFAST_NAME-invoker@$host builder=$HOLDFAST_NAME-builder@$host
    # Cloud Run's URLs are known before a service exists, so the worker can know its own URL and the api the worker's.
    api_url=https://$HOLDFAST_NAME-api-$1.$REGION.run.app
    export TASKS_INVOKER=$invoker WORKER_URL=https://$HOLDFAST_NAME-worker-$1.$REGION.run.app
}

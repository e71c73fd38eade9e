# shellcheck shell=bash
# The two functions: each is deployed where its code or its settings differ, and then gets its share of the traffic.

WORKER_TIMEOUT=1860 # seconds; above the longest dispatch deadline
API_TIMEOUT=3600    # seconds; Cloud Run's maximum
SPARE_THREADS=10    # beyond the concurrency

deploy_worker() {
    local reach=all
    [ "$INGRESS" = all ] || reach=internal # which Cloud Tasks is: https://cloud.google.com/run/docs/securing/ingress
    function_of worker "$worker" "$WORKER_CONCURRENCY" "$WORKER_MIN_INSTANCES" "$WORKER_MAX_INSTANCES" \
        --timeout="$WORKER_TIMEOUT" --ingress="$reach" --no-allow-unauthenticated "$(secrets_flag)"
}

deploy_api() { # who may call it is granted by a step of its own, whose refusal gcloud would only warn of here
    local check=--invoker-iam-check
    [ "$PUBLIC" = iam ] || check=--no-invoker-iam-check
    function_of api "$api" "$API_CONCURRENCY" "$API_MIN_INSTANCES" "$API_MAX_INSTANCES" \
        --timeout="$API_TIMEOUT" --ingress="$INGRESS" "$check"
}

function_of() { # target, account, concurrency, minimum and maximum instances, and further flags
    local name=$HOLDFAST_NAME-$1 environment mark there ready latest share
    local -a flags=(--source=. --function="$1" --base-image=python313 --region="$REGION" --service-account="$2"
        --build-service-account="projects/$GOOGLE_CLOUD_PROJECT/serviceAccounts/$builder"
        --concurrency="$3" --min-instances="$4" --max-instances="$5" --cpu=1 --memory=1Gi --cpu-boost "${@:6}")
    # A build knows no such key, which gcloud wants to be told.
    if [ "$KMS_KEY" ]; then flags+=(--key="$KMS_KEY" --allow-unencrypted-build); else flags+=(--clear-key); fi
    if [ "$VPC" ]; then
        flags+=(--network="${VPC%%,*}" --vpc-egress="$VPC_EGRESS")
        [[ $VPC != *,* ]] || flags+=(--subnet="${VPC#*,}")
    else
        flags+=(--clear-network)
    fi
    environment=$(ask environment)
    flags+=(--set-env-vars="^|^$environment|THREADS=$(($3 + SPARE_THREADS))")
    mark=$(ask digest "${flags[@]}")
    flags+=(--labels=holdfast="$mark")
    there=$(look run services list --region="$REGION" --format=json)
    there=$(ask service "$name" <<<"$there")
    if [ -z "$there" ]; then
        revision "$name" "${flags[@]}"
        made 'the services'
        return
    fi
    read -r ready latest share <<<"$there"
    if [ "$force" ] || [ "$ready" != "$mark" ]; then
        if [ "$canary" ]; then
            flags+=(--no-traffic --tag=canary)
            share=0
        fi
        revision "$name" "${flags[@]}"
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

revision() {
    local loud=yes
    change run deploy "$@" && return
    case $error in
        *[Qq]uota*) fail "That is a quota: $REGION has too little CPU or memory left in this project for the instances that were asked for.
New projects have 20 vCPU a region, and an instance has one. Lower API_MAX_INSTANCES ($API_MAX_INSTANCES) or WORKER_MAX_INSTANCES ($WORKER_MAX_INSTANCES), or
ask for more: https://console.cloud.google.com/iam-admin/quotas?project=$GOOGLE_CLOUD_PROJECT (Cloud Run Admin API)." ;;
    esac
    exit 1
}

serves() { # checks that the worker is private, and the api public
    if [ "$INGRESS" = all ]; then
        answers "$WORKER_URL" 403 'should be private'
        answers "$api_url/v1/models" 401 'should be public'
    else
        answers "$WORKER_URL" '403|404' 'should be private'
        note "Not checked: whether the api answers, because INGRESS=$INGRESS may hide it from here."
    fi
}

answers() { # checks that an unauthenticated request to this URL gets one of these statuses
    local status='' waited=0 pause=5 bound=25
    local -a line=(curl --silent --output /dev/null --max-time 30 --write-out '%{http_code}' "$1")
    said '# ' "${line[@]}"
    [ -z "$dry" ] || return 0
    [ -z "$fresh" ] || bound=$PATIENCE
    while :; do
        status=$("${line[@]}") || true
        ! [[ $status =~ ^($2)$ ]] || return 0
        [ "$waited" -lt "$bound" ] || break
        sleep "$pause"
        waited=$((waited + pause))
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

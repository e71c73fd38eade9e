#!/usr/bin/env bash
# Deploys Holdfast into a Google Cloud project, and removes it again. `deploy`, below, lists what is created.
# Every resource is read first and changed only if it differs, so this can be run again at any time.
set -euo pipefail
from=$PWD
cd "$(dirname "$0")"
. deploy/commands.sh
. deploy/variables.sh
. deploy/checks.sh
. deploy/access.sh
. deploy/firestore.sh
. deploy/secrets.sh
. deploy/queue.sh
. deploy/functions.sh
. deploy/regions.sh

deploy() {
    apis artifactregistry cloudbuild cloudresourcemanager cloudtasks firebaserules firestore iam run secretmanager storage
    vertex apis aiplatform
    [ "${PUSH:-off}" = off ] || apis fcm
    places

    account "$api" 'Holdfast: serves the clients'
    account "$worker" 'Holdfast: calls the upstreams'
    account "$invoker" 'Holdfast: sends the tasks'
    account "$builder" 'Holdfast: builds the functions'

    database
    rules
    indexes
    queues
    each_key secret

    grant_database "$api"
    enqueues "$api"
    grant_database "$worker"
    enqueues "$worker"
    [ "${PUSH:-off}" = off ] || grant "$worker" roles/firebasecloudmessaging.admin projects "$GOOGLE_CLOUD_PROJECT"
    each_key readable
    vertex grant "$worker" roles/aiplatform.user projects "$GOOGLE_CLOUD_PROJECT"
    grant "$builder" roles/run.builder projects "$GOOGLE_CLOUD_PROJECT"

    # The worker is deployed first, because it must understand the tasks of the new api.
    deploy_worker
    grant "$invoker" roles/run.invoker 'run services' "$HOLDFAST_NAME-worker" --region="$REGION"
    deploy_api
    public

    serves
    delivers
    built
    elsewhere
    alone
    farewell
}

destroy() {
    local there each names regions locations what
    [ "$yes$dry" ] || [ -t 0 ] || fail 'There is no terminal to ask on: say ./deploy.sh destroy --yes'
    there=$(everywhere)
    regions=$(ask regions "$HOLDFAST_NAME" "$REGION" <<<"$there")
    regions=${regions//$'\n'/, }                                       # the others
    locations=$(ask locations "$HOLDFAST_NAME" "$REGION" <<<"$there") # of their queues
    [ -z "$regions" ] || [ -z "$delete_data" ] ||
        fail "--delete-data: $HOLDFAST_NAME is in $regions too, and needs that data. Nothing was removed: say it for the last region."
    what="the services, the queue, the secrets and the accounts of $HOLDFAST_NAME"
    [ -z "$regions" ] || what="what $HOLDFAST_NAME has in $REGION, but not what it shares with $regions,"
    agreed "$yes" "Remove $what from $GOOGLE_CLOUD_PROJECT?" || fail 'Nothing was removed.'

    there=$(look run services list --region="$REGION" --format='value(metadata.name)')
    for each in api worker; do
        gone "$HOLDFAST_NAME-$each" "$there" run services delete "$HOLDFAST_NAME-$each" --region="$REGION"
    done

    if has "$TASKS_LOCATION" "$locations"; then
        there=''
        note "The queue stays, because $HOLDFAST_NAME uses it elsewhere: $TASKS_LOCATION"
    else
        there=$(look tasks queues list --location="$TASKS_LOCATION" --format='value(name.basename())')
    fi
    names=$there # also of more queues than are set now
    [ -z "$dry" ] || names=$(shards)
    for each in $names; do
        [[ ! $each =~ ^$TASKS_QUEUE(-shard-[0-9]+)?$ ]] ||
            change tasks queues delete "$each" --location="$TASKS_LOCATION"
    done
    [ -z "$dry" ] || note 'Where the ends of answers are told of:'
    gone "$TASKS_QUEUE-deliveries" "$there" tasks queues delete "$TASKS_QUEUE-deliveries" --location="$TASKS_LOCATION"

    if [ "$regions" ]; then
        note "Not removed, because $HOLDFAST_NAME is in $regions too: the accounts with their grants, the secrets, and all data.
Run this again for each region: the last one takes them along."
        return
    fi
    [ -z "$dry" ] || note 'Where no other region has these services:'
    there=$(look secrets list --filter="labels.holdfast=$HOLDFAST_NAME" --format='value(name.basename())')
    [ -z "$dry" ] || there=$(secret_name UPSTREAM_API_KEY)
    for each in $there; do
        gone "$each" "$there" secrets delete "$each"
    done

    revoke "$api" roles/datastore.user
    revoke "$worker" roles/datastore.user
    [ -z "$dry" ] || note 'Where an upstream is Vertex AI:'
    revoke "$worker" roles/aiplatform.user
    [ -z "$dry" ] || note 'Where devices are notified:'
    revoke "$worker" roles/firebasecloudmessaging.admin
    revoke "$builder" roles/run.builder
    there=$(look iam service-accounts list --format='value(email)')
    for each in "$api" "$worker" "$invoker" "$builder"; do
        gone "$each" "$there" iam service-accounts delete "$each"
    done

    there="Not removed: the database $FIRESTORE_DATABASE with its messages, devices and rules, the APIs, the images in Artifact Registry
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

exec 3>&1 # for messages from within a $(...)
command=deploy dry='' force='' canary='' yes='' delete_data='' keys='' token='' kept_elsewhere=''
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

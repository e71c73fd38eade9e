# shellcheck shell=bash
# The queues, and a task through the first that shows whether the worker accepts what it sends.

MOST_DISPATCHES=5000 # Cloud Tasks' maximum of concurrent dispatches per queue
REPEATS=30           # seconds in which a refused task is delivered again, some times

queue() { # its name, and its limits
    local there
    there=$(look tasks queues list --location="$TASKS_LOCATION" --format=json)
    there=$(ask queue "$@" <<<"$there")
    [ "$there" != same ] || return 0
    change tasks queues "${there:-create}" "$1" --location="$TASKS_LOCATION" "${@:2}"
    [ "$there" ] || made 'the queue'
}

shards() { # the names of the answers' queues, as the functions' settings have them
    local each
    echo "$TASKS_QUEUE"
    for ((each = 1; each < TASKS_QUEUES; each++)); do
        echo "$TASKS_QUEUE-shard-$each"
    done
}

queues() { # of answers, and of what follows their end, if anything does
    local each
    for each in $(shards); do
        # Retries end when both limits are reached. An hour after its start, an answer counts as lost in any case.
        queue "$each" --max-dispatches-per-second=500 --max-concurrent-dispatches="$(dispatches)" \
            --max-attempts=100 --max-retry-duration=3600s --min-backoff=1s --max-backoff=5s --max-doublings=4
    done
    # The worker gives a delivery up a day after its answer's end, which is before the queue does.
    ! delivers_ends || queue "$TASKS_QUEUE-deliveries" --max-dispatches-per-second=100 --max-concurrent-dispatches=20 \
        --max-attempts=100 --max-retry-duration=93600s --min-backoff=5s --max-backoff=900s --max-doublings=8
}

delivers_ends() {
    [ "${WEBHOOK_URL:-}" ] || [ "${PUSH:-off}" = on ]
}

enqueues() { # an account that may add tasks
    local each
    for each in $(shards); do
        grant "$1" roles/cloudtasks.enqueuer 'tasks queues' "$each" --location="$TASKS_LOCATION"
    done
    ! delivers_ends ||
        grant "$1" roles/cloudtasks.enqueuer 'tasks queues' "$TASKS_QUEUE-deliveries" --location="$TASKS_LOCATION"
    grant "$1" roles/iam.serviceAccountUser 'iam service-accounts' "$invoker"
}

dispatches() { # of each queue, all of them together at most as many as the workers accept
    local most=$((WORKER_CONCURRENCY * WORKER_MAX_INSTANCES / TASKS_QUEUES))
    most=$((most > 0 ? most : 1))
    echo $((most < MOST_DISPATCHES ? most : MOST_DISPATCHES))
}

# Sends a task that does nothing, as the api sends its own. A task that the worker has accepted is gone; one that it has
# refused is there, with its last attempt. Cloud Tasks may take minutes to deliver one.
delivers() {
    local task there='' attempt='' waited=0 pause=1 bound=$PATIENCE
    local -a in=(--queue="$TASKS_QUEUE" --location="$TASKS_LOCATION")
    task=$(look tasks create-http-task "${in[@]}" --url="$WORKER_URL" --method=POST \
        --header='Content-Type: application/json' --body-content='{"check": true}' \
        --oidc-service-account-email="$invoker" --oidc-token-audience="$WORKER_URL" --format='value(name.basename())') ||
        fail "The test task could not be put into the queue $TASKS_QUEUE. Whoever deploys needs roles/cloudtasks.enqueuer and
roles/cloudtasks.taskDeleter on it, and roles/iam.serviceAccountUser on $invoker."
    [ -z "$dry" ] || return 0
    while [ "$waited" -lt "$bound" ]; do
        there=$(gcloud tasks describe "$task" "${in[@]}" --format=json --project="$GOOGLE_CLOUD_PROJECT" --quiet 2>&1) || {
            [[ $there == *NOT_FOUND* || $there == *'not found'* || $there == *'no longer exists'* ]] || fail "$there"
            return 0
        }
        attempt=$(ask attempt <<<"$there")
        [ -z "$attempt" ] || [ "$fresh" ] || bound=$REPEATS
        sleep "$pause"
        waited=$((waited + pause)) pause=$((2 * pause < LONGEST_PAUSE ? 2 * pause : LONGEST_PAUSE))
    done
    gcloud tasks delete "$task" "${in[@]}" --project="$GOOGLE_CLOUD_PROJECT" --quiet >/dev/null 2>&1 || true
    undelivered "$attempt"
}

undelivered() { # what the last attempt at a task came to, if there was one
    local remedy
    case $1 in
        '') fail "The queue $TASKS_QUEUE has delivered no task in $((PATIENCE / 60)) minutes. Is it paused? See
gcloud tasks queues describe $TASKS_QUEUE --location=$TASKS_LOCATION; or run this again." ;;
        *401*) remedy="The worker refuses the token of $invoker: its log says why. If WORKER_URL or TASKS_INVOKER
was changed by hand, run ./deploy.sh --force.
If it says signature_removed, set WORKER_TOKENS=platform." ;;
        *403*) remedy="Cloud Run refuses $invoker: it must have roles/run.invoker on $HOLDFAST_NAME-worker. If it was just granted, run
this again in some minutes. If a policy of your organisation removes it, ask for an exception." ;;
        *404*) remedy="Nothing answers at $WORKER_URL: was $HOLDFAST_NAME-worker deleted, or its URL disabled?" ;;
        *429* | *503*) remedy='No instance was available, or none came up: see the log of the worker, and run this again.' ;;
        *) remedy="See the log of $HOLDFAST_NAME-worker." ;;
    esac
    fail "The queue can't make the worker run: a task that does nothing got '$1'.
$remedy"
}

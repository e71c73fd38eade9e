# shellcheck shell=bash
# APIs, accounts and grants: each is read, and changed if it differs.

apis() {
    local name
    local -a missing=()
    for name in "$@"; do
        has "$name.googleapis.com" "$enabled" || missing+=("$name.googleapis.com")
    done
    [ ${#missing[@]} != 0 ] || return 0
    change services enable "${missing[@]}"
    made 'the APIs'
}

account() {
    [ "${accounts+known}" ] || accounts=$(look iam service-accounts list --format='value(email)')
    ! has "$1" "$accounts" || return 0
    change iam service-accounts create "${1%%@*}" --display-name="$2"
    made 'the accounts'
}

# A member (an account's e-mail, or allUsers), a role, the kind of a resource, its name, and its location. `condition`, an
# expression, limits what the role is granted on.
grant() {
    local member role=$2 granted
    local -a kind on=("${@:4}")
    member=$(member "$1")
    read -r -a kind <<<"$3"
    granted=$(look "${kind[@]}" get-iam-policy "${on[@]}" --format=json | ask granted "$member" "$role" "${condition:-}")
    [ -z "$granted" ] || return 0
    if [ "${condition:-}" ]; then
        on+=(--condition="expression=$condition,title=$HOLDFAST_NAME,description=One database alone")
    elif [ "$3" != 'tasks queues' ]; then
        on+=(--condition=None)
    fi
    change "${kind[@]}" add-iam-policy-binding "${on[@]}" --member="$member" --role="$role" || return
    made 'the grants'
}

member() {
    case $1 in allUsers) echo "$1" ;; *) echo "serviceAccount:$1" ;; esac
}

grant_database() { # the one database, and no other of the project
    local condition unlimited
    # https://cloud.google.com/firestore/native/docs/manage-databases#conditional-access
    condition="resource.name == \"projects/$GOOGLE_CLOUD_PROJECT/databases/$FIRESTORE_DATABASE\""
    grant "$1" roles/datastore.user projects "$GOOGLE_CLOUD_PROJECT"
    unlimited=$(look projects get-iam-policy "$GOOGLE_CLOUD_PROJECT" --format=json |
        ask granted "serviceAccount:$1" roles/datastore.user)
    [ -z "$unlimited" ] || change projects remove-iam-policy-binding "$GOOGLE_CLOUD_PROJECT" \
        --member="serviceAccount:$1" --role=roles/datastore.user --condition=None
}

vertex() { # does something where the upstreams are Vertex AI in this project
    ! has "$GOOGLE_CLOUD_PROJECT" "$vertex_projects" || "$@"
}

elsewhere() { # says what the worker's account needs for upstreams where this script changes nothing
    local project host service its_region member=serviceAccount:$worker
    while read -r project; do
        [ "$project" ] && [ "$project" != "$GOOGLE_CLOUD_PROJECT" ] || continue
        note "An upstream is Vertex AI in the project $project. Unless it is done, there:
gcloud services enable aiplatform.googleapis.com --project=$project
gcloud projects add-iam-policy-binding $project --member=$member --role=roles/aiplatform.user --condition=None"
    done <<<"$vertex_projects"
    while read -r host service its_region; do
        [ "$host" ] || continue
        note "The upstream $host gets an ID token of the worker's account. Unless it is done, where its service is:
gcloud run services add-iam-policy-binding $service --region=$its_region --member=$member --role=roles/run.invoker"
    done <<<"$invoked_services"
}

revoke() { # whatever the condition
    local member=serviceAccount:$1 bound
    bound=$(look projects get-iam-policy "$GOOGLE_CLOUD_PROJECT" --format=json | ask bound "$member" "$2")
    [ -z "$bound$dry" ] ||
        change projects remove-iam-policy-binding "$GOOGLE_CLOUD_PROJECT" --member="$member" --role="$2" --all
}

public() { # lets everybody call the api; it checks its users' tokens itself
    [ "$PUBLIC" = iam ] || return 0
    grant allUsers roles/run.invoker 'run services' "$HOLDFAST_NAME-api" --region="$REGION" && return
    case $error in
        *'permitted customer'* | *allowedPolicyMemberDomains* | *'rganization policy'*)
            fail "A policy of your organisation (domain-restricted sharing) refuses allUsers. Set PUBLIC=no-check: Cloud Run then lets
every request through to the api without a grant, and the api checks the users' tokens. Or ask for an exception." ;;
    esac
    exit 1
}

# shellcheck shell=bash
# What is checked before anything is changed: the tools, the settings, the login, and what the project already has.

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
    vertex_projects=$(ask vertex)
    invoked_services=$(ask invoked)
}

check_login() {
    local number
    [ -z "$dry" ] || return 0
    token=$(gcloud auth print-access-token 2>/dev/null) || fail "Nobody is logged in: run 'gcloud auth login'."
    number=$(gcloud projects describe "$GOOGLE_CLOUD_PROJECT" --format='value(projectNumber)' 2>/dev/null) ||
        fail "GOOGLE_CLOUD_PROJECT: there is no project '$GOOGLE_CLOUD_PROJECT' for this login: see 'gcloud auth list'."
    name_all "$number"
}

check_project() {
    enabled=$(look services list --enabled --format='value(config.name)')
    stored='' database_type='' database_edition='' database_location='' rules_differ=unknown set_secrets=''
    if has secretmanager.googleapis.com "$enabled"; then
        stored=$(look secrets list --format=json)
        kept_elsewhere=$(ask kept_elsewhere "$REGION" <<<"$stored")
        stored=$(ask names <<<"$stored")
    fi
    each_key check_key
    if has firestore.googleapis.com "$enabled"; then
        database_type=$(look firestore databases list --format=json)
        read -r database_type database_edition database_location <<<"$(ask database "$FIRESTORE_DATABASE" <<<"$database_type")"
    fi
    [ "${database_type:-FIRESTORE_NATIVE}" = FIRESTORE_NATIVE ] ||
        fail "FIRESTORE_DATABASE: $FIRESTORE_DATABASE is in Datastore mode: name another, and it will be created."
    [ "${database_edition:-STANDARD}" = STANDARD ] ||
        fail "FIRESTORE_DATABASE: $FIRESTORE_DATABASE is of the edition $database_edition, which takes no index exemptions. Holdfast needs one of the
Standard edition: name another, and it will be created."
    [ "$database_type" ] || [ -z "$KMS_KEY" ] || [ "$FIRESTORE_LOCATION" = "$REGION" ] ||
        fail "KMS_KEY: it is in $REGION, but the database is to be made in $FIRESTORE_LOCATION, and needs a key there. Make the database first."
    rules_release=projects/$GOOGLE_CLOUD_PROJECT/releases/cloud.firestore
    [ "$FIRESTORE_DATABASE" = '(default)' ] || rules_release+=/$FIRESTORE_DATABASE
    has firebaserules.googleapis.com "$enabled" || return 0
    check_rules
}

# Whether what is to be made may be where it is to be. To list that, the APIs must be enabled: in a new project, that is
# all that was changed before.
places() {
    local policy='' final='caller does not have permission|orgpolicy\.policy\.get'
    place REGION 'Cloud Run' run regions list
    place TASKS_LOCATION 'Cloud Tasks' tasks locations list
    [ "$database_type" ] || place FIRESTORE_LOCATION Firestore firestore locations list
    policy=$(look resource-manager org-policies describe gcp.resourceLocations --effective --format=json 2>/dev/null) ||
        policy='' # not everybody may read it: then it shows when the secret is made
    automatic=$(ask automatic <<<"$policy")
}

place() { # a variable, what has to be there, and the command that lists where it is
    local there
    there=$(look "${@:3}" --format='value(locationId)')
    [ "$dry" ] || has "${!1}" "$there" || fail "$1: $2 is not in '${!1}'. It is in: ${there//$'\n'/ }"
}

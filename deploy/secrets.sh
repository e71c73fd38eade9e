# shellcheck shell=bash
# The upstreams' keys and the webhook's secrets: taken from where they are given, and stored in Secret Manager where they differ.

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

check_key() {
    if [ -n "$(given "$1")" ] || { has "$(secret_name "$1")" "$stored" && [ -n "$(newest "$(secret_name "$1")")" ]; }; then
        return 0
    elif [ "$dry" ]; then
        note "$1 is not set: nothing would be deployed unless its secret is there."
    else
        fail "$1: it must be set, or ${1}_FILE, as it is not stored yet$(region_of_its_own "$1"); UPSTREAM_API_KEY=none if the upstream has none"
    fi
}

secret() {
    local name key version kept='' input=''
    name=$(secret_name "$1")
    key=$(given "$1")
    has "$name" "$stored" || new_secret "$name"
    version=$(newest "$name")
    if [ "$key" ] && [ "$version" ]; then
        kept=$(look secrets versions access "$version" --secret="$name")
    fi
    if [ "$dry" ] || [ "${key:-$kept}" != "$kept" ]; then
        input=$key
        change secrets versions add "$name" --data-file=-
        input=''
        version=$(newest "$name")
    fi
    set_secrets+=${set_secrets:+,}$1=$name:${version:-1}
}

new_secret() {
    local input='' replication=(--replication-policy=automatic)
    if [ "$KMS_KEY" ]; then
        input="{\"userManaged\": {\"replicas\": [{\"location\": \"$REGION\", \"customerManagedEncryption\": {\"kmsKeyName\": \"$KMS_KEY\"}}]}}"
        replication=(--replication-policy-file=-)
    elif [ "$automatic" = no ]; then
        replication=(--replication-policy=user-managed --locations="$REGION")
    fi
    if ! change secrets create "$1" "${replication[@]}" --labels=holdfast="$HOLDFAST_NAME"; then
        case $error in
            *resourceLocations*) fail "The organisation policy gcp.resourceLocations refuses this secret. Where it forbids the location global, this
login needs roles/orgpolicy.policyViewer to see that, and the secret is then kept in $REGION alone." ;;
        esac
        exit 1
    fi
    made 'the secrets'
}

newest() { # revisions are bound to a secret's version, so that a rollback restores the key too
    look secrets versions list "$1" --format=json | ask newest
}

readable() {
    grant "$worker" roles/secretmanager.secretAccessor secrets "$(secret_name "$1")"
}

secret_name() { # one for all regions, unless it is kept in another one alone, which can't be changed: then one of REGION
    local name
    # https://cloud.google.com/secret-manager/docs/choosing-replication
    name=$(echo "$HOLDFAST_NAME-$1" | tr 'A-Z_' 'a-z-')
    ! has "$name" "$kept_elsewhere" || name+=-$REGION
    echo "$name"
}

region_of_its_own() { # why a key that is stored has to be given once more
    local name
    name=$(secret_name "$1")
    ! has "${name%-"$REGION"}" "$kept_elsewhere" || echo " for $REGION (${name%-"$REGION"} is not kept there)"
}

secrets_flag() {
    if [ "$set_secrets" ]; then echo "--set-secrets=$set_secrets"; else echo --clear-secrets; fi
}

# shellcheck shell=bash
# The database, its rules and its indexes: each is read, and changed if it differs.

RULES_NAME=holdfast.rules # distinguishes rules from this script from the application's own
BUILD_SECONDS=300

database() {
    local -a flags=(--location="$FIRESTORE_LOCATION" --type=firestore-native --edition="$EDITION" --delete-protection)
    [ -z "$database_type" ] || return 0
    [ -z "$KMS_KEY" ] || flags+=(--kms-key-name="$KMS_KEY")
    change firestore databases create --database="$FIRESTORE_DATABASE" "${flags[@]}"
    made 'the database'
}

check_rules() {
    local releases ruleset deployed
    rules_differ=yes
    releases=$(firebase GET "projects/$GOOGLE_CLOUD_PROJECT/releases?pageSize=100")
    ruleset=$(ask release "$rules_release" <<<"$releases")
    [ -n "$ruleset" ] || return 0
    deployed=$(firebase GET "$ruleset")
    deployed=$(ask rules "$RULES_NAME" <<<"$deployed")
    case $deployed-${RULES:-} in
        same-* | *-keep) rules_differ='' ;;
        ours-* | nobodys-* | *-replace) ;;
        *) fail "RULES: the database $FIRESTORE_DATABASE has rules of its own. Say replace, or merge firestore.rules into them and say keep." ;;
    esac
}

rules() {
    local project=projects/$GOOGLE_CLOUD_PROJECT ruleset refusal input=''
    [ "$rules_differ" != unknown ] || [ "$dry" ] || check_rules # their API was not enabled before
    [ "$rules_differ" ] || return 0
    input=$(ask ruleset "$RULES_NAME")
    ruleset=$(firebase POST "$project/rulesets")
    ruleset=$(ask name "$project/rulesets/RULESET" <<<"$ruleset")
    # A new database may have a release, or none.
    input="{\"release\": {\"name\": \"$rules_release\", \"rulesetName\": \"$ruleset\"}}"
    if refusal=$(final='error: 404' && firebase PATCH "$rules_release" 2>&1 >/dev/null); then
        [ "$dry" ] || return 0
        note 'If there is none to change:'
    elif [[ $refusal != *'error: 404'* ]]; then
        fail "$refusal"
    fi
    input="{\"name\": \"$rules_release\", \"rulesetName\": \"$ruleset\"}"
    firebase POST "$project/releases" >/dev/null
}

# gcloud has no command for rules. The Firebase CLI needs Node.js and its own login, but the API that it calls does not.
firebase() { # method, path; the body is in `input`
    local -a line=(curl --silent --show-error --fail-with-body --max-time 60 --request "$1" --header @/dev/fd/4)
    line+=(--header "X-Goog-User-Project: $GOOGLE_CLOUD_PROJECT")
    [ "$1" = GET ] || line+=(--header 'Content-Type: application/json' --data-binary @-)
    line+=("https://firebaserules.googleapis.com/v1/$2")
    if [ "$1" = GET ]; then said '# ' "${line[@]}"; else said '' "${line[@]}"; fi
    [ "$dry" ] || patiently with_token "${line[@]}"
}

with_token() { # runs curl with the token on a descriptor, so that it is in no command line; a refusal's body is an error
    local answer
    if answer=$("$@" 4< <(printf 'Authorization: Bearer %s\n' "$token")); then
        printf '%s\n' "$answer"
    else
        printf '%s\n' "$answer" >&2
        return 1
    fi
}

indexes() { # indexes, exemptions and expiry, from the file that the Firebase CLI reads too
    local composites fields expiring
    composites=$(look firestore indexes composite list --database="$FIRESTORE_DATABASE" --format=json)
    fields=$(look firestore indexes fields list --database="$FIRESTORE_DATABASE" --format=json)
    expiring=$(look firestore fields ttls list --database="$FIRESTORE_DATABASE" --format=json)
    expiring=$(ask indexes "$composites" "$fields" "$expiring")
    each_index "$expiring"
}

each_index() { # the commands, one a line
    local line
    local -a words
    while IFS= read -r line; do
        read -r -a words <<<"$line"
        [ ${#words[@]} != 0 ] || continue
        change firestore "${words[@]}" --database="$FIRESTORE_DATABASE"
        made 'the indexes'
    done <<<"$1"
}

built() { # waits for the indexes, or says which are still being built
    local waited=0 pause=5 pending
    while :; do
        pending=$(look firestore indexes composite list --database="$FIRESTORE_DATABASE" --format=json)
        pending=$(ask building "$pending")
        [ "$pending" ] && [ "$waited" -lt "$BUILD_SECONDS" ] || break
        [ "$waited" != 0 ] || note 'Waiting for the indexes, for some minutes at most: Firestore builds them.'
        sleep "$pause"
        waited=$((waited + pause)) pause=$((2 * pause < LONGEST_PAUSE ? 2 * pause : LONGEST_PAUSE))
    done
    [ -z "$pending" ] || note "
Still being built, which takes hours where there is much data. Until then, lists of generations are refused:
$pending
NEEDS_REPAIR means that building failed: delete that index, and run this again."
}

delete_data() {
    local root=https://firestore.googleapis.com/v1/projects/$GOOGLE_CLOUD_PROJECT/databases/$FIRESTORE_DATABASE
    local left='' call composites fields expiring
    note 'Deleting, generation by generation, from holdfastGenerations: its request, its journal, and then itself.'
    for call in documents:runQuery documents:commit; do
        said '' curl --silent --show-error --fail-with-body --globoff --config - "$root/$call"
    done
    [ "$dry" ] || left=$(printf %s "$token" | ask walk "$root")
    composites=$(look firestore indexes composite list --database="$FIRESTORE_DATABASE" --format=json)
    fields=$(look firestore indexes fields list --database="$FIRESTORE_DATABASE" --format=json)
    expiring=$(look firestore fields ttls list --database="$FIRESTORE_DATABASE" --format=json)
    expiring=$(ask unindexed "$composites" "$fields" "$expiring" "$left")
    each_index "$expiring"
    [ -z "$left" ] || note "There is something left in $left, of generations that had expired already. Their TTL stays: it deletes that
within some days. To remove the TTL too, run this again then."
}

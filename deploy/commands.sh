# shellcheck shell=bash
# How commands run: those that only read, those that change something, and which of them are tried again.

# A grant takes effect within "2 minutes, potentially 7 minutes or longer":
# https://cloud.google.com/iam/docs/access-change-propagation
PATIENCE=420 # seconds
LONGEST_PAUSE=60
# What Google Cloud answers while it does not know everywhere of an API, an account, a grant or a database that is there,
LAGS='(^|[^0-9])40[34]([^0-9]|$)|PERMISSION_DENIED|NOT_FOUND|SERVICE_DISABLED|[Hh]as not been used|not enabled'
LAGS+='|(does|may) not exist|[Nn]ot found|[Pp]ermission .*denied|[Pp]ermission denied|not have .*(permission|access)|[Ff]orbidden'
# and while the index before this one is being made: https://github.com/hashicorp/terraform-provider-google/issues/16664
LAGS+='|underlying data changed|contention|[Cc]oncurrent access'

fresh='' # what this run has made: only after that is a refusal taken for one that passes
input='' # what the next command gets on stdin
error='' # what the last command said on stderr

look() { # runs a command that only reads; a dry run does not run it, and finds nothing
    said '# ' gcloud "$@" --project="$GOOGLE_CLOUD_PROJECT" --quiet
    [ "$dry" ] || patiently gcloud "$@" --project="$GOOGLE_CLOUD_PROJECT" --quiet
}

change() {
    said '' gcloud "$@" --project="$GOOGLE_CLOUD_PROJECT" --quiet
    [ "$dry" ] || patiently gcloud "$@" --project="$GOOGLE_CLOUD_PROJECT" --quiet >/dev/null
}

made() { # notes what was just made
    case ", $fresh, " in *", $1, "*) ;; *) fresh+=${fresh:+, }$1 ;; esac
}

# Runs a command. While it fails, and only because what this run has made is not known everywhere, runs it again. With
# `final`, a pattern, an error that matches is an answer. With `loud`, its progress is shown as it comes.
patiently() {
    local code pause=5 waited=0 since=$SECONDS words
    while :; do
        code=0
        { error=$("$@" 2>&1 >&6 < <(printf %s "$input") | heard) || code=$?; } 6>&1
        if [ "$code" = 0 ] || ! passes || [ "$waited" -ge "$PATIENCE" ] || [ $((SECONDS - since)) -ge $((2 * PATIENCE)) ]; then
            break
        fi
        if [ "$waited" = 0 ]; then
            words="$* "
            note "Waiting, for some minutes at most, until Google Cloud knows what was just made ($fresh): ${words%% --*}"
        fi
        sleep "$pause"
        waited=$((waited + pause)) pause=$((2 * pause < LONGEST_PAUSE ? 2 * pause : LONGEST_PAUSE))
    done
    [ -z "$error" ] || [ "${loud:-}" ] || printf '%s\n' "$error" >&2
    [ "$code" = 0 ] || [ "$waited" = 0 ] ||
        printf 'That did not pass in %s minutes. Earlier steps are complete: run this again.\n' $((PATIENCE / 60)) >&2
    return "$code"
}

passes() { # whether the last error does, once Google Cloud knows everywhere what this run has made
    [ "$fresh" ] && [[ $error =~ $LAGS ]] && { [ -z "${final:-}" ] || ! [[ $error =~ $final ]]; }
}

heard() { # passes on what a command says on stderr, and shows it where it may take minutes
    local line
    while IFS= read -r line || [ -n "$line" ]; do
        printf '%s\n' "$line"
        [ -z "${loud:-}" ] || printf '%s\n' "$line" >&2
    done
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

ask() { # a question about JSON or the settings, which deploy/__main__.py answers
    "$PYTHON" -BS -m deploy "$@"
}

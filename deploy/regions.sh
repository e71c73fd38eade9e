# shellcheck shell=bash
# One deployment in several regions, a run of this script for each: what of it is in other regions than REGION. The
# accounts, the secrets and the database are shared, and stay for as long as one region is left.

everywhere() { # the services in all regions, as JSON; it fails where not every region answers
    # What is not listed would be taken for what is not there, and its accounts and secrets removed.
    look run services list --format=json --verbosity=warning || fail 'Nothing was removed.'
    [[ $error != *'did not respond'* ]] ||
        fail "Not every region answers, so $HOLDFAST_NAME may be where it can't be seen. Nothing was removed: run this again."
}

alone() { # says where the database is, if this region fails with that one
    local where=${database_location:-$FIRESTORE_LOCATION}
    [[ $where != *-* || $where = "$REGION" ]] || # a multi-region's name has no hyphen: nam7
        note "
The database $FIRESTORE_DATABASE is in $where alone, and not in $REGION: while that region is away, this one can do nothing.
Where regions are to stand in for each other, it must be in a multi-region: see docs/deploy.md."
}

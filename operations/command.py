"""What the commands that work on the database share: options, and what is said where Firestore can't be used."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import closing

from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import GoogleAuthError

from lib.cloud.documents import Documents, Stale
from lib.domain.errors import InvalidRequest, Unreachable
from lib.domain.ids import document_id

REMEDY = "Check --project and --database, and log in with: gcloud auth application-default login"


def add_database(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say which database."""
    parser.add_argument("--project", required=True, help="the Google Cloud project")
    parser.add_argument("--database", default="(default)", help="the Firestore database (%(default)s)")


def uid(given: str) -> str:
    """The type of an option that is a user's id. Errors: `argparse.ArgumentTypeError`."""
    try:
        return document_id(given, "UID")
    except InvalidRequest as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def on_database(options: argparse.Namespace, work: Callable[[Documents], int], again: str = "Run this again.") -> int:
    """Gives `work` the database that the options name, and returns its exit status.

    Where Firestore can't be reached or refuses, that is 1, with a line of why on stderr, and `again` or the remedy.
    """
    try:
        with closing(Documents(options.project, options.database, os.environ.get("FIRESTORE_EMULATOR_HOST"))) as given:
            return work(given)
    except Unreachable as error:
        print(f"Firestore can't be reached ({error}). {again}", file=sys.stderr)
    except (Stale, GoogleAPICallError, GoogleAuthError) as error:
        print(f"Firestore let nobody in: {error.__cause__ or error}\n{REMEDY}", file=sys.stderr)
    return 1

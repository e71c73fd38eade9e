"""The real gcloud, for many command lines: it is imported once, and a fork of it reads each line.

gcloud's own program starts this instead of gcloud where `CLOUDSDK_PYTHON_ARGS` is its path, with what it would have
started as the first argument. Command lines come on stdin, as JSON: for each its words and what is on its stdin. A JSON
line for each goes to stdout: the exit code, stdout and stderr.
"""

import json
import os
import runpy
import sys
from tempfile import TemporaryFile


def read(main, words, given):
    """Runs `main` in a fork, in which all is as in a process of its own."""
    with TemporaryFile() as stdin, TemporaryFile() as out, TemporaryFile() as error:
        stdin.write(given.encode())
        stdin.seek(0)
        sys.stdout.flush()
        if (fork := os.fork()) == 0:
            for number, file in enumerate((stdin, out, error)):
                os.dup2(file.fileno(), number)
            sys.argv[1:] = words
            main()  # it ends this process
        _, status = os.waitpid(fork, 0)
        out.seek(0)
        error.seek(0)
        return os.waitstatus_to_exitcode(status), out.read().decode(), error.read().decode()


if __name__ == "__main__":
    del sys.argv[0]
    gcloud = runpy.run_path(sys.argv[0])
    sys.path = gcloud["reorder_sys_path"](sys.path)
    import googlecloudsdk.gcloud_main  # noqa: F401

    for words, given in json.loads(sys.stdin.read()):
        print(json.dumps(read(gcloud["main"], words, given)))

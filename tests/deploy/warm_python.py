"""A Python for deploy.sh that has started already.

deploy.sh asks Python thirty times, and starting it, or forking it, takes longer than the answers do. The program that
`PYTHON` names sends its process id to a running Python. That takes over the process's folder, environment, arguments
and stdin, and runs the module as `python -BS -m` does. It forgets what it loaded of the project, except `lib`, which it
has from the folder that every cloud is a copy of: no module there looks for files beside itself. Only Linux shows a
process's environment.

Run as `python -BS warm_python.py` this is the running Python: it prints its port, and ends when its stdin does.
"""

import io
import os
import runpy
import shutil
import socket
import subprocess
import sys
import threading
import traceback
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

PROJECT = ("deploy", "operations")
LOADS = "import datetime, hashlib, json, lib.runtime.settings"
# What asks for no module, and what has children of its own, gets a Python of its own. The response is the exit code,
# stderr and stdout, which each end with NUL. It is read with -u, as <&3 would put the socket in stdin's place.
PROGRAM = """#!{bash}
[ "$1 $2" = '-BS -m' ] && [ "$4" != walk ] || exec {python} "$@"
exec 3<>/dev/tcp/127.0.0.1/{port}
echo $$ >&3
IFS= read -u 3 -rd '' code
IFS= read -u 3 -rd '' error
IFS= read -u 3 -rd '' out
printf %s "$error" >&2
printf %s "$out"
exit "$code"
"""


@contextmanager
def warm(python, needed):
    """Yields the text of a program that answers as this Python does in a copy of this folder."""
    if not Path("/proc/self/fd").exists():
        yield f'#!/bin/sh\nexec {python} "$@"\n'
        return
    command = [python, "-BS", __file__]
    with subprocess.Popen(command, cwd=needed, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        port = running.stdout.readline().strip()
        yield PROGRAM.format(bash=shutil.which("bash"), python=python, port=port)
        running.stdin.close()


def serve():
    sys.path[0] = str(Path.cwd())
    exec(LOADS)
    kept = set(sys.modules)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        threading.Thread(target=lambda its: (its.read(), os._exit(0)), args=[sys.stdin], daemon=True).start()
        while True:
            asking, _ = listening.accept()
            with asking, asking.makefile(encoding="utf-8") as asked:
                try:
                    asking.sendall("".join(f"{part}\0" for part in answered(asked.readline().strip())).encode())
                except Exception:
                    traceback.print_exc()
            for name in [name for name in sys.modules if name not in kept and name.startswith(PROJECT)]:
                del sys.modules[name]


def answered(process):
    """Runs what the process with this id is there for. Returns the exit code, stderr and stdout."""
    there = Path("/proc", process)
    os.environ.clear()
    for each in (there / "environ").read_bytes().split(b"\0"):
        name, assigned, value = each.partition(b"=")
        if assigned:
            os.environb[name] = value
    os.chdir(there / "cwd")
    *_, arguments = (there / "cmdline").read_bytes()[:-1].split(b"\0-m\0", 1)
    module, *given = map(os.fsdecode, arguments.split(b"\0"))
    sys.path[0] = str(Path.cwd())
    sys.argv = ["", *given]
    code = 0
    with (
        (there / "fd" / "0").open(encoding="utf-8") as sys.stdin,  # only a question about it reads it
        redirect_stdout(io.StringIO()) as out,
        redirect_stderr(io.StringIO()) as error,
    ):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code or 0
            if isinstance(code, str):
                print(code, file=error)
                code = 1
        except BaseException:
            traceback.print_exc()
            code = 1
    return str(code), error.getvalue(), out.getvalue()


if __name__ == "__main__":
    serve()

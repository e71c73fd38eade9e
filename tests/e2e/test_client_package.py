"""The client package, `clients/js`: its own tests, what apps install of it, and its way through breaks."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from local.client import Client, question
from local.demo_text import seed_of, text
from local.ports import HOST, Ports
from local.stack import ROOT, Stack
from local.token import PROJECT, id_token
from tests.conftest import STRICT
from tests.e2e.breaking_proxy import BreakingProxy
from tests.e2e.browsing import browse
from tests.e2e.node_script import NODE, run
from tests.e2e.test_continuation import wait_for
from tests.e2e.web_sdk import WEB, WebSdk, path_of

PACKAGE = ROOT / "clients" / "js"
APPS = (ROOT / "examples" / "web", NODE, WEB)
SECONDS = 300.0
TOKENS = 300
UPSTREAMS = """
[resumable]
base_url = "http://{host}:{port}/v1"
models = ["openrouter"]
continue = "prefill"
prefill_style = "openrouter"

[demo]
base_url = "http://{host}:{port}/v1"
models = ["demo"]
speaks = ["chat_completions", "messages", "gemini"]
"""


def command(*arguments: str, folder: Path = PACKAGE) -> str:
    """What a command printed. It must succeed."""
    done = subprocess.run(arguments, cwd=folder, capture_output=True, encoding="utf-8", timeout=SECONDS, check=False)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def manifest() -> dict[str, Any]:
    return dict(json.loads((PACKAGE / "package.json").read_bytes()))


# The package


def test_its_own_tests_pass() -> None:
    printed = command("npm", "test", "--silent")
    passed = re.search(r"^. pass (\d+)$", printed, re.MULTILINE)
    assert passed is not None
    assert int(passed[1]) > 50


def test_its_types_are_those_of_its_code() -> None:
    command("node_modules/.bin/tsc")


@pytest.mark.parametrize("folder", [NODE, WEB], ids=["model APIs and callables", "Firestore"])
def test_its_types_are_those_of_the_sdks(folder: Path) -> None:
    options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--target", "es2022"]
    command(str(PACKAGE / "node_modules/.bin/tsc"), *options, "--types", "", "types.ts", folder=folder)


def test_what_apps_install_is_its_code_its_types_and_its_licence(tmp_path: Path) -> None:
    packed = command("npm", "pack", "--silent", "--pack-destination", str(tmp_path)).strip()
    with tarfile.open(tmp_path / packed) as tar:
        held = {name.removeprefix("package/") for name in tar.getnames()}
    source = {f"src/{each.name}" for each in (PACKAGE / "src").iterdir()}
    assert held == {"package.json", "README.md", "LICENSE", *source}
    assert "dependencies" not in manifest()
    assert (PACKAGE / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert manifest()["license"] == "Apache-2.0"


@pytest.mark.parametrize("app", APPS, ids=lambda app: app.name)
def test_every_app_has_the_package_as_it_is(app: Path) -> None:
    packed = f"build/holdfast-client-{manifest()['version']}.tgz"
    lock = json.loads((app / "package-lock.json").read_bytes())["packages"]["node_modules/holdfast-client"]
    assert lock["resolved"].removeprefix("file:").lstrip("./") == packed
    assert "integrity" not in lock, "it is another one after each change of the package: leave it out"
    for file in (PACKAGE / "src").iterdir():
        installed = app / "node_modules" / "holdfast-client" / "src" / file.name
        assert installed.read_bytes() == file.read_bytes(), "It is an older one: run './local/setup.sh tests'."


# Against the local stack


@pytest.fixture(scope="module")
def stack(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of its own, whose worker is killed."""
    ports = Ports.free()
    upstreams = tmp_path_factory.mktemp("upstreams") / "upstreams.toml"
    upstreams.write_text(UPSTREAMS.format(host=HOST, port=ports.upstream_port))
    settings = {"UPSTREAMS_FILE": str(upstreams), "LEASE_SECONDS": "3", "KEEPALIVE_SECONDS": "0.5"}
    with Stack(ports, settings, strict=STRICT, beside=stack) as running:
        yield running


def asked(what: str, **demo: Any) -> dict[str, Any]:
    return {"model": "openrouter", "stream": True, **question(what, TOKENS, **demo)}


def whole(body: dict[str, Any]) -> str:
    return text(seed_of(body["messages"]), TOKENS)


def test_a_lost_worker_and_breaks_on_top_are_nothing_to_an_sdk_a_callable_and_a_listener(
    stack: Stack, client: Client
) -> None:
    # The first call of each stops in the midst, so none can end before the worker is killed.
    demo = {"rate": 100, "fault": {"kind": "stall", "at": 100, "times": 1}}
    bodies = {name: asked(f"{name} {uuid.uuid4().hex}", **demo) for name in ("sdk", "callable", "listener")}
    order = {"token": id_token(client.user), **bodies}
    code = """
        import OpenAI from 'openai';
        import { httpsCallableFromURL } from '@firebase/functions';
        import { answer, resumingFetch } from 'holdfast-client';
        import { functionsOf } from './functions.mjs';
        const sdk = async () => {
          const options = { apiKey: order.token, fetch: resumingFetch(), maxRetries: 0 };
          const client = new OpenAI({ baseURL: `${order.url}/v1`, ...options });
          let text = '';
          const chunks = await client.chat.completions.create(order.sdk);
          for await (const chunk of chunks) text += chunk.choices[0]?.delta.content ?? '';
          return text;
        };
        const callable = async () => {
          let shown;
          const call = httpsCallableFromURL(functionsOf(order.token), order.url);
          const result = await answer(call, order.callable, { onUpdate: ({ text }) => { shown = text; } });
          return result.state === 'completed' && result.content === shown ? shown : [result, shown];
        };
        say(await Promise.all([sdk(), callable()]));
    """
    with BreakingProxy(stack.ports.api_port, after=6_000, times=4) as breaking, ThreadPoolExecutor(2) as pool:
        calling = pool.submit(run, code, url=breaking.url, **order)
        listening = pool.submit(lambda: list(WebSdk(stack).follow(client.user, "m1", bodies["listener"])))
        wait_for(lambda: len(far := list(client.list())) == 3 and all(each["lastSeq"] > 20 for each in far))
        stack.processes["worker"].kill()
        stack.restart("worker")
        assert calling.result(SECONDS) == [[whole(bodies["sdk"]), whole(bodies["callable"])]]
        *shown, last = listening.result(SECONDS)
        assert breaking.broken == 4
    assert last["message"]["content"] == whole(bodies["listener"])
    assert all(whole(bodies["listener"]).startswith(each["text"]) for each in shown)
    assert [each["attempt"] for each in client.list()] == [2, 2, 2]


@pytest.mark.parametrize("times", [1, 3])
def test_google_s_and_anthropic_s_sdks_come_back_too(stack: Stack, client: Client, times: int) -> None:
    what = uuid.uuid4().hex
    messages = question(what, TOKENS)["messages"]
    code = """
        import { resumingFetch } from 'holdfast-client';
        globalThis.fetch = resumingFetch();
        const { GoogleGenAI } = await import('@google/genai');
        const { default: Anthropic } = await import('@anthropic-ai/sdk');
        const { url, token, messages, demo } = order;
        let text = '';
        if (order.sdk === 'google') {
          const ai = new GoogleGenAI({ vertexai: false, apiKey: token, httpOptions: { baseUrl: url } });
          const config = { httpOptions: { extraBody: { demo } } };
          const asked = { model: 'demo', contents: messages[0].content, config };
          for await (const chunk of await ai.models.generateContentStream(asked)) text += chunk.text ?? '';
        } else {
          const client = new Anthropic({ baseURL: url, apiKey: token, maxRetries: 0 });
          const asked = { model: 'demo', max_tokens: 1024, messages, demo };
          await client.messages.stream(asked).on('text', (piece) => { text += piece; }).done();
        }
        say(text);
    """
    for sdk in ("google", "anthropic"):
        with BreakingProxy(stack.ports.api_port, after=6_000, times=times) as breaking:
            order = {"url": breaking.url, "token": id_token(client.user), "demo": {"tokens": TOKENS, "rate": 200}}
            answers = run(code, sdk=sdk, messages=messages, **order)
            assert breaking.broken == times, sdk
        assert answers == [text(seed_of(messages), TOKENS)], sdk


# In Chromium


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = str(tmp_path_factory.mktemp("bundle") / "in_browser.js")
    esbuild = str(ROOT / "examples" / "web" / "node_modules" / ".bin" / "esbuild")
    command(
        esbuild, "in_browser.mjs", "--bundle", "--format=iife", f"--outfile={file}", "--log-level=error", folder=WEB
    )
    return file


@pytest.fixture
def in_chromium(stack: Stack, client: Client, bundle: str) -> Callable[..., Any]:
    """Calls a function of the bundle in a page of this stack, as a user of one's own."""

    def in_chromium(call: str, **given: Any) -> Any:
        given = {"token": id_token(client.user), "chat": "followed", "id": "m1", **given}
        (seen,) = browse("clientPackage", api=stack.url, url=stack.url, bundle=bundle, call=call, given=given)
        return seen

    return in_chromium


def test_in_chromium_a_stream_that_breaks_is_gone_on_with(stack: Stack, in_chromium: Callable[..., Any]) -> None:
    body = asked(uuid.uuid4().hex, rate=100)
    with BreakingProxy(stack.ports.api_port, after=8_000, times=3) as breaking:
        seen = in_chromium("streamed", url=breaking.url, body=body, resumes=True)
        assert breaking.broken == 3
    assert seen == {"text": whole(body), "done": True}


def test_in_chromium_a_stream_that_breaks_is_an_error_without_the_package(
    stack: Stack, in_chromium: Callable[..., Any]
) -> None:
    with BreakingProxy(stack.ports.api_port, after=8_000, times=1) as breaking:
        seen = in_chromium("streamed", url=breaking.url, body=asked(uuid.uuid4().hex, rate=100), resumes=False)
    assert seen == {"error": "TypeError"}


def test_in_chromium_a_listener_sees_the_text_grow_to_the_whole_answer(
    stack: Stack, client: Client, in_chromium: Callable[..., Any]
) -> None:
    body = asked(uuid.uuid4().hex, rate=100)
    where = {"host": HOST, "port": stack.ports.firestore_port, "project": PROJECT}
    seen = in_chromium("followed", url=stack.url, path=path_of(client.user, "m1"), body=body, **where)
    assert (seen["state"], seen["content"]) == ("completed", whole(body))
    assert all(whole(body).startswith(each) for each in seen["texts"])
    assert len({each for each in seen["texts"] if 0 < len(each) < len(whole(body))}) > 1

"""Which upstream serves a model, and the errors for an invalid catalog."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib.domain.errors import ConfigurationError, InvalidRequest
from lib.runtime.catalog import Auth, Catalog, Deadlines, Prefill, Upstream, Usage, load

TOML = """
[openai]
base_url = "https://api.openai.com/v1/"
models = ["gpt-5", "o*"]
key_env = "OPENAI_API_KEY"
idle_seconds = 30
total_seconds = 600.5

[local]
base_url = "http://127.0.0.1:8000/v1"
models = ["*"]
"""


ONE = {"UPSTREAM_BASE_URL": "http://u/v1", "UPSTREAM_MODELS": "*"}


def upstream(name: str, *models: str, total: float = 1500.0) -> Upstream:
    return Upstream(name=name, base_url=f"http://{name}/v1", models=models, deadlines=Deadlines(total=total))


def serving(model: str, *upstreams: Upstream) -> str:
    return Catalog(upstreams).serving(model).name


def from_file(folder: Path, text: str) -> Catalog:
    path = folder / "upstreams.toml"
    path.write_text(text, encoding="utf-8")
    return load({"UPSTREAMS_FILE": str(path)})


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        from_file(folder, text)
    return str(refused.value)


# Which upstream serves a model


def test_an_exact_name_comes_before_any_prefix_and_a_prefix_before_the_star() -> None:
    exact, prefix, star = upstream("exact", "gpt-5"), upstream("prefix", "gpt-*"), upstream("star", "*")
    for order in ((exact, prefix, star), (star, prefix, exact), (prefix, star, exact)):
        assert serving("gpt-5", *order) == "exact"
        assert serving("gpt-4", *order) == "prefix"
        assert serving("llama", *order) == "star"


def test_the_longer_prefix_comes_before_the_shorter_one() -> None:
    short, long = upstream("short", "gpt-*"), upstream("long", "gpt-5-*")
    assert serving("gpt-5-mini", short, long) == serving("gpt-5-mini", long, short) == "long"
    assert serving("gpt-4", short, long) == "short"


def test_an_exact_name_comes_before_a_prefix_of_the_same_length() -> None:
    assert serving("gpt-5", upstream("prefix", "gpt-5*"), upstream("exact", "gpt-5")) == "exact"


def test_among_equals_the_first_serves() -> None:
    assert serving("gpt-5", upstream("one", "gpt-5"), upstream("two", "gpt-5")) == "one"
    assert serving("any", upstream("one", "*"), upstream("two", "*")) == "one"


def test_one_upstream_may_have_exact_names_and_prefixes() -> None:
    several = upstream("several", "a", "b*")
    assert serving("a", several) == serving("b", several) == serving("b1", several) == "several"


def test_a_prefix_is_no_substring_and_a_name_is_no_prefix() -> None:
    catalog = Catalog([upstream("one", "gpt", "o1-*")])
    for model in ("gpt-5", "my-o1-x", "o1", "GPT"):
        with pytest.raises(InvalidRequest):
            catalog.serving(model)


def test_an_unknown_model_is_refused_with_a_list_of_what_there_is() -> None:
    catalog = Catalog([upstream("one", "gpt-5", "o*"), upstream("two", "llama-3")])
    with pytest.raises(InvalidRequest) as refused:
        catalog.serving("mistral")
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "model_not_found", "model")
    assert refused.value.message == "There is no model 'mistral'. There is: gpt-5, o*, llama-3."


def test_a_very_long_unknown_name_is_not_repeated_whole() -> None:
    with pytest.raises(InvalidRequest) as refused:
        Catalog([upstream("one", "a")]).serving("x" * 1_000_000)
    assert len(refused.value.message) < 1000


def test_the_models_there_are_come_with_their_upstream_s_name() -> None:
    catalog = Catalog([upstream("one", "a", "b*"), upstream("two", "*")])
    assert catalog.models() == [("a", "one"), ("b*", "one"), ("*", "two")]
    assert "one" in catalog
    assert "three" not in catalog
    assert catalog["two"].name == "two"


def test_the_longest_is_the_longest_of_all_upstreams() -> None:
    assert Catalog([upstream("a", total=10), upstream("b", total=30), upstream("c", total=20)]).longest == 30


# Where the catalog comes from


def test_a_file_has_a_table_for_each_upstream(tmp_path: Path) -> None:
    catalog = from_file(tmp_path, TOML)
    assert catalog["openai"] == Upstream(
        name="openai",
        base_url="https://api.openai.com/v1",
        models=("gpt-5", "o*"),
        key_env="OPENAI_API_KEY",
        deadlines=Deadlines(idle=30.0, total=600.5),
    )
    assert catalog["local"] == Upstream(name="local", base_url="http://127.0.0.1:8000/v1")
    assert catalog.serving("o3").name == "openai"
    assert catalog.serving("llama").name == "local"


def test_without_a_file_the_environment_names_one_upstream_and_never_its_key() -> None:
    environ = {
        "UPSTREAM_BASE_URL": "http://one/v1/",
        "UPSTREAM_MODELS": " gpt-5 , o* ,",
        "UPSTREAM_API_KEY": "sk-secret",
    }
    catalog = load(environ)
    assert catalog["default"] == Upstream(
        name="default", base_url="http://one/v1", models=("gpt-5", "o*"), key_env="UPSTREAM_API_KEY"
    )
    assert "sk-secret" not in repr(catalog["default"])
    assert load(ONE)["default"].models == ("*",)
    assert load(ONE)["default"].key_env is None


@pytest.mark.parametrize("models", [{}, {"UPSTREAM_MODELS": ""}, {"UPSTREAM_MODELS": " , "}])
def test_models_that_nobody_named_are_not_all_models(models: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load({"UPSTREAM_BASE_URL": "http://u/v1", **models})
    assert str(refused.value) == (
        "UPSTREAM_MODELS: it must list the models that users may ask for, such as gpt-4o or gpt-*, since you pay for "
        "each; '*' allows all"
    )


def test_an_upstream_of_a_file_names_its_models_too(tmp_path: Path) -> None:
    message = refusal(tmp_path, '[one]\nbase_url = "https://one/v1"\n')
    assert message.startswith("upstream one: models: it must list the models that users may ask for")


def test_a_file_comes_before_the_environment_s_upstream(tmp_path: Path) -> None:
    path = tmp_path / "upstreams.toml"
    path.write_text(TOML, encoding="utf-8")
    catalog = load({"UPSTREAMS_FILE": str(path), "UPSTREAM_BASE_URL": "http://other/v1"})
    assert "default" not in catalog


def test_every_fault_of_a_file_is_named_at_once(tmp_path: Path) -> None:
    message = refusal(
        tmp_path,
        """
        loose = 1
        [one]
        base_url = "api.openai.com"
        models = []
        colour = "red"
        [two]
        base_url = "https://two/v1"
        key_env = 3
        idle_seconds = 0
        connect_seconds = "10"
        first_byte_seconds = true
        total_seconds = -1
        models = ["a", 2]
        [three]
        models = ["*"]
        """,
    )
    faults = message.splitlines()
    for start in (
        "upstream loose: it must be a table",
        "upstream one: base_url",
        "upstream one: models",
        "upstream one: unknown setting 'colour'",
        "upstream two: key_env",
        "upstream two: idle_seconds",
        "upstream two: connect_seconds",
        "upstream two: first_byte_seconds",
        "upstream two: total_seconds",
        "upstream two: models",
        "upstream three: base_url",
    ):
        assert [fault for fault in faults if fault.startswith(start)], (start, faults)
    assert len(faults) == 11


def test_an_unknown_setting_is_named_with_those_there_are(tmp_path: Path) -> None:
    message = refusal(tmp_path, '[one]\nbase_url = "https://one/v1"\napi_key = "sk-secret"\n')
    assert "unknown setting 'api_key'" in message
    for known in ("base_url", "models", "key_env", "connect_seconds", "first_byte_seconds", "total_seconds"):
        assert known in message
    assert "sk-secret" not in message


@pytest.mark.parametrize("url", ["", "one/v1", "ftp://one/v1", "https://", "http:/one", "http://[::1"])
def test_a_base_url_that_is_none_is_named(tmp_path: Path, url: str) -> None:
    assert refusal(tmp_path, f'[one]\nbase_url = "{url}"\n').startswith("upstream one: base_url")


@pytest.mark.parametrize("seconds", ["nan", "inf", "-inf", "-0.0"])
def test_a_deadline_that_is_no_finite_time_is_named(tmp_path: Path, seconds: str) -> None:
    assert "idle_seconds" in refusal(tmp_path, f'[one]\nbase_url = "https://one/v1"\nidle_seconds = {seconds}\n')


@pytest.mark.parametrize("text", ["= 1", "[one", "\x00", "[a]\n[a]\n"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, text: str) -> None:
    message = refusal(tmp_path, text)
    assert message.startswith("UPSTREAMS_FILE: ")
    assert "upstreams.toml" in message


def test_a_file_of_other_bytes_than_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "upstreams.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="UPSTREAMS_FILE"):
        load({"UPSTREAMS_FILE": str(path)})


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="UPSTREAMS_FILE"):
        load({"UPSTREAMS_FILE": str(tmp_path / "none.toml")})


def test_a_file_without_an_upstream_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, "# nothing\n") == "UPSTREAMS_FILE: it has no upstream"


@pytest.mark.parametrize("environ", [{}, {"UPSTREAM_BASE_URL": ""}, {"UPSTREAM_API_KEY": "sk"}])
def test_where_nothing_says_where_the_upstream_is_both_ways_are_named(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(environ)
    assert "UPSTREAM_BASE_URL" in str(refused.value)
    assert "UPSTREAMS_FILE" in str(refused.value)


# Continuation


def test_an_upstream_is_asked_to_continue_only_where_it_is_set_to(tmp_path: Path) -> None:
    table = '[{0}]\nbase_url = "http://{0}/v1"\nmodels = ["*"]\n{1}\n'
    catalog = from_file(
        tmp_path,
        table.format("plain", "")
        + table.format("unnamed", 'continue = "prefill"')
        + table.format("named", 'continue = "prefill"\nprefill_style = "vllm"'),
    )
    found = {name: catalog[name].prefill for name in ("plain", "unnamed", "named")}
    assert found == {"plain": None, "unnamed": Prefill.OPENROUTER, "named": Prefill.VLLM}


def test_the_environment_s_one_upstream_can_be_set_so_as_well() -> None:
    one = {**ONE, "UPSTREAM_CONTINUE": "prefill", "UPSTREAM_PREFILL_STYLE": "anthropic"}
    assert load(one)["default"].prefill is Prefill.ANTHROPIC
    assert load(ONE)["default"].prefill is None


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('continue = "again"', "continue must be 'prefill'"),
        ("continue = true", "continue must be 'prefill'"),
        ('prefill_style = "vllm"', "goes with continue"),
        ('continue = "prefill"\nprefill_style = "echo"', "is 'openrouter', 'anthropic' or 'vllm'"),
    ],
)
def test_a_wrong_prefill_style_is_named(tmp_path: Path, lines: str, said: str) -> None:
    assert said in refusal(tmp_path, f'[up]\nbase_url = "http://u/v1"\n{lines}\n')


# The background


def test_an_upstream_generates_in_the_background_only_where_it_is_set_to(tmp_path: Path) -> None:
    table = '[{0}]\nbase_url = "http://{0}/v1"\nmodels = ["*"]\nspeaks = ["chat_completions", "responses"]\n{1}\n'
    catalog = from_file(tmp_path, table.format("plain", "") + table.format("set", "background = true"))
    assert (catalog["plain"].background, catalog["set"].background) == (False, True)
    assert catalog.has_background
    assert not from_file(tmp_path, table.format("plain", "background = false")).has_background


def test_the_environment_s_one_upstream_has_a_background_as_well() -> None:
    one = {**ONE, "UPSTREAM_SPEAKS": "responses"}
    found = [load({**one, "UPSTREAM_BACKGROUND": value})["default"].background for value in ("", "off", "on")]
    assert found == [False, False, True]
    with pytest.raises(ConfigurationError, match="UPSTREAM_BACKGROUND"):
        load({**one, "UPSTREAM_BACKGROUND": "yes"})


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('speaks = ["responses"]\nbackground = "on"', "background must be true or false"),
        ("background = true", "background goes with speaks = ['responses']"),
        ('speaks = ["messages"]\nbackground = true', "background goes with speaks = ['responses']"),
        ('speaks = "responses"\nbackground = 1', "background must be true or false"),
        ("speaks = 3\nbackground = true", "background goes with speaks = ['responses']"),
    ],
)
def test_a_wrong_background_is_named(tmp_path: Path, lines: str, said: str) -> None:
    assert said in refusal(tmp_path, f'[up]\nbase_url = "http://u/v1"\n{lines}\n')


# Ids of the account


def test_ids_of_the_account_are_allowed_only_where_it_is_set(tmp_path: Path) -> None:
    table = '[{0}]\nbase_url = "http://{0}/v1"\nmodels = ["*"]\n{1}\n'
    catalog = from_file(tmp_path, table.format("plain", "") + table.format("set", "account_ids = true"))
    assert (catalog["plain"].account_ids, catalog["set"].account_ids) == (False, True)
    found = [load({**ONE, "UPSTREAM_ACCOUNT_IDS": value})["default"].account_ids for value in ("", "off", "on")]
    assert found == [False, False, True]
    with pytest.raises(ConfigurationError, match="UPSTREAM_ACCOUNT_IDS"):
        load({**ONE, "UPSTREAM_ACCOUNT_IDS": "yes"})
    assert "account_ids must be true or false" in refusal(
        tmp_path, '[up]\nbase_url = "http://u/v1"\naccount_ids = "all"\n'
    )


# Dialects and usage


def test_an_upstream_speaks_chat_completions_and_is_asked_for_usage_unless_set_otherwise(tmp_path: Path) -> None:
    table = '[{0}]\nbase_url = "http://{0}/v1"\nmodels = ["*"]\n{1}\n'
    catalog = from_file(
        tmp_path,
        table.format("plain", "")
        + table.format("set", 'speaks = ["messages", "chat_completions"]\nusage = "as_asked"')
        + table.format("named", 'usage = "ask"'),
    )
    assert (catalog["plain"].speaks, catalog["plain"].usage) == (("chat_completions",), Usage.ASK)
    assert (catalog["set"].speaks, catalog["set"].usage) == (("messages", "chat_completions"), Usage.AS_ASKED)
    assert catalog["named"].usage is Usage.ASK


def test_the_environment_s_one_upstream_says_what_it_speaks_as_well() -> None:
    one = {**ONE, "UPSTREAM_SPEAKS": " messages ,gemini,", "UPSTREAM_USAGE": "as_asked"}
    assert load(one)["default"].speaks == ("messages", "gemini")
    assert load(one)["default"].usage is Usage.AS_ASKED
    plain = load({**ONE, "UPSTREAM_SPEAKS": "", "UPSTREAM_USAGE": ""})["default"]
    assert (plain.speaks, plain.usage) == (("chat_completions",), Usage.ASK)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('speaks = "chat_completions"', "speaks must be a list of dialects, such as ['chat_completions']"),
        ("speaks = []", "speaks must be a list"),
        ('speaks = ["messages", 3]', "speaks must be a list"),
        ('speaks = [""]', "speaks must be a list"),
        ('usage = "never"', "usage is 'ask' or 'as_asked'"),
        ("usage = true", "usage is 'ask' or 'as_asked'"),
        ("usage = []", "usage is 'ask' or 'as_asked'"),
    ],
)
def test_a_wrong_value_for_speaks_or_usage_is_named(tmp_path: Path, line: str, said: str) -> None:
    message = refusal(tmp_path, f'[up]\nbase_url = "http://u/v1"\n{line}\n')
    assert message.startswith("upstream up: ")
    assert said in message


@pytest.mark.parametrize(("name", "value"), [("UPSTREAM_SPEAKS", " , "), ("UPSTREAM_USAGE", "Ask")])
def test_a_wrong_value_in_the_environment_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name.removeprefix("UPSTREAM_").lower()):
        load({**ONE, name: value})


# Credentials, headers and query


def test_a_key_is_a_bearer_token_unless_set_otherwise_and_headers_and_query_go_with_it(tmp_path: Path) -> None:
    table = '[{0}]\nbase_url = "http://{0}/v1"\nmodels = ["*"]\n{1}\n'
    catalog = from_file(
        tmp_path,
        table.format("plain", "")
        + table.format("named", 'key_env = "K"\nauth = "x-api-key"\nheaders = { X-Team = "a b" }')
        + table.format("azure", 'key_env = "K"\nauth = "api-key"\nquery = { api-version = "1", "$filter" = "" }')
        + table.format("vertex", 'auth = "google"')
        + table.format("private", 'auth = "google_id_token"'),
    )
    plain, named, azure = catalog["plain"], catalog["named"], catalog["azure"]
    assert (plain.auth, plain.headers, plain.query) == (Auth.BEARER, (), ())
    assert (named.auth, named.headers) == ("x-api-key", (("X-Team", "a b"),))
    assert (azure.auth, azure.query) == ("api-key", (("api-version", "1"), ("$filter", "")))
    assert (catalog["vertex"].auth, catalog["private"].auth) == (Auth.GOOGLE, Auth.GOOGLE_ID_TOKEN)


def test_the_environment_s_one_upstream_says_what_it_is_shown_as_well() -> None:
    one = load(
        {
            **ONE,
            "UPSTREAM_API_KEY": "k",
            "UPSTREAM_AUTH": "api-key",
            "UPSTREAM_HEADERS": "X-Team=a+b&X-Other=%26",
            "UPSTREAM_QUERY": "api-version=2024-10-21",
        }
    )["default"]
    assert (one.auth, one.key_env) == ("api-key", "UPSTREAM_API_KEY")
    assert (one.headers, one.query) == ((("X-Team", "a b"), ("X-Other", "&")), (("api-version", "2024-10-21"),))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('auth = "x api key"', "auth is 'bearer', 'google' or 'google_id_token', or the name of the header"),
        ("auth = true", "auth is 'bearer'"),
        ('auth = "x-api-key"', "auth = 'x-api-key' needs key_env"),
        ('auth = "google"\nkey_env = "K"', "auth = 'google' sends tokens of the service's account: it needs no key"),
        ('headers = "X-Team"', "headers must be names and texts"),
        ("headers = { X-Team = 1 }", "headers must be names and texts"),
        ('headers = { "X Team" = "a" }', "headers must be names and texts"),
        ('headers = { X-Team = "a\\nb" }', "headers must be names and texts"),
        ('headers = { Authorization = "Bearer k" }', "headers can't have Authorization: a key goes with key_env"),
        ('headers = { X-API-Key = "k" }', "headers can't have X-API-Key"),
        ('key_env = "K"\nauth = "x-mine"\nheaders = { X-Mine = "k" }', "headers can't have X-Mine"),
        ("query = []", "query must be names and texts"),
    ],
)
def test_a_wrong_credential_header_or_query_is_named(tmp_path: Path, lines: str, said: str) -> None:
    message = refusal(tmp_path, f'[up]\nbase_url = "http://u/v1"\n{lines}\n')
    assert message.startswith("upstream up: ")
    assert said in message


@pytest.mark.parametrize("url", ["https://u/v1?api-version=1", "https://u/v1#x"])
def test_a_base_url_with_a_query_is_refused_because_the_path_goes_behind_it(tmp_path: Path, url: str) -> None:
    assert "what follows a '?' goes into query" in refusal(tmp_path, f'[up]\nbase_url = "{url}"\n')


@pytest.mark.parametrize(("name", "value"), [("UPSTREAM_HEADERS", "X-Team"), ("UPSTREAM_QUERY", "=")])
def test_pairs_in_the_environment_that_are_none_are_named(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name.removeprefix("UPSTREAM_").lower()):
        load({**ONE, name: value})


DOCUMENTED = {  # what each speaks, and how it is called
    "openai": ("chat_completions", Auth.BEARER),
    "openai_responses": ("responses", Auth.BEARER),
    "azure": ("chat_completions", "api-key"),
    "azure_by_version": ("chat_completions", "api-key"),
    "anthropic": ("messages", "x-api-key"),
    "gemini": ("gemini", "x-goog-api-key"),
    "gemini_by_openai": ("chat_completions", Auth.BEARER),
    "vertex": ("gemini", Auth.GOOGLE),
    "vertex_by_openai": ("chat_completions", Auth.GOOGLE),
    "openrouter": ("chat_completions", Auth.BEARER),
    "vllm": ("chat_completions", Auth.BEARER),
    "ollama": ("chat_completions", Auth.BEARER),
    "cloud_run": ("chat_completions", Auth.GOOGLE_ID_TOKEN),
}


def test_the_documented_upstreams_are_ones(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "operations.md").read_text(encoding="utf-8")
    catalog = from_file(tmp_path, page.partition("```toml\n")[2].partition("```")[0])
    there = [catalog[name] for name in dict.fromkeys(name for _, name in catalog.models())]
    assert {each.name: (each.speaks[0], each.auth) for each in there} == DOCUMENTED
    assert [each.name for each in there if each.auth == Auth.BEARER and each.key_env is None] == ["vllm", "ollama"]


def test_the_environment_s_one_upstream_has_its_key_s_variable_where_its_key_is_not_known() -> None:
    assert load({**ONE, "UPSTREAM_AUTH": "x-api-key"})["default"].key_env == "UPSTREAM_API_KEY"
    assert load({**ONE, "UPSTREAM_AUTH": "bearer"})["default"].key_env is None
    assert load({**ONE, "UPSTREAM_AUTH": "google", "UPSTREAM_API_KEY": "k"})["default"].key_env is None

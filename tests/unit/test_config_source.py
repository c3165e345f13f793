"""Files, substitution and variables become a Config; each mistake has its own one-line message."""

from pathlib import Path

import pytest

from agent.config import Config, Secret
from agent.config.source import (
    check_files,
    environment,
    load_config,
    masked,
    masked_yaml,
    require_topics,
)
from agent.errors import ConfigError
from agent.types import Kind


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write `inferometer.yaml` into the working directory, so that messages hold a short name."""
    monkeypatch.chdir(tmp_path)

    def _write(text: str | bytes) -> Path:
        path = Path("inferometer.yaml")
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return _write


def test_ten_lines_are_a_configuration(write) -> None:
    path = write(
        """
kafka:
  bootstrap_servers: [kafka:9092]
  topics: [predictions]
  group_id: inferometer
export:
  interval_s: 5
  otlp:
    endpoint: http://collector:4317
"""
    )
    config = load_config(path, {})
    assert config.kafka.bootstrap_servers == ["kafka:9092"]
    assert config.kafka.topics == ["predictions"]
    assert config.export.interval_s == 5.0
    assert config.export.otlp.endpoint == "http://collector:4317"
    assert config.windows == Config().windows


def test_no_file_gives_the_defaults() -> None:
    assert load_config(None, {}) == Config()


@pytest.mark.parametrize("text", ["", "# only a comment\n", "kafka:\n", "models:\n  # - name: a\n"])
def test_what_is_left_empty_takes_its_defaults(write, text: str) -> None:
    assert load_config(write(text), {}) == Config()


def test_yaml_is_read_as_version_1_2(write) -> None:
    config = load_config(
        write(
            "kafka: {client_rack: no, client_id: on, group_id: 12:30}\n"
            "budget: {max_memory_bytes: 1e8}\nwindows: {width_s: 1e2}\nruntime: {kernel_threads: 0o2}\n"
        ),
        {},
    )
    assert (config.kafka.client_rack, config.kafka.client_id) == ("no", "on")
    assert config.kafka.group_id == "12:30"
    assert config.budget.max_memory_bytes == 100_000_000
    assert config.windows.width_s == 100.0
    assert config.runtime.kernel_threads == 2


def test_maps_and_lists_of_groups_are_read(write) -> None:
    config = load_config(
        write(
            "features:\n  dep_hour: {kind: numeric, min: 0, max: 23}\n"
            "models:\n- name: flight-delay\n  versions: 2\n- name: other\n"
            "decode: {fields: {features: {distance: trip.km}, segment: where}}\n"
        ),
        {},
    )
    assert config.features["dep_hour"].kind is Kind.NUMERIC
    assert config.features["dep_hour"].max == 23.0
    assert [(m.name, m.versions) for m in config.models] == [("flight-delay", 2), ("other", 1)]
    assert config.decode.fields.features == {"distance": "trip.km"}
    assert config.decode.fields.segment == "where"


# ------------------------------------------------ environment


def test_environment_inside_values_takes_the_type_of_its_option(write) -> None:
    path = write(
        "kafka:\n"
        "  topics: ['${env:TOPIC}', 'b-${env:TOPIC}']\n"
        "  security_protocol: SASL_SSL\n"
        "  sasl: {mechanism: PLAIN, username: agent, password: '${env:PIN}'}\n"
        "  session_timeout_s: ${env:SESSION:-45}\n"
        "  group_instance_id: ${env:POD_NAME:-}\n"
        "  client_id: ${env:PIN}\n"
        "web: {port: '${env:PORT}', enabled: '${env:WEB}'}\n"
    )
    config = load_config(path, {"TOPIC": "t", "PIN": "0042", "PORT": "9000", "WEB": "false"})
    assert config.kafka.topics == ["t", "b-t"]
    assert config.kafka.sasl is not None
    assert config.kafka.sasl.password == Secret("0042")
    assert config.kafka.session_timeout_s == 45.0
    assert config.kafka.group_instance_id is None
    assert config.kafka.client_id == "0042"
    assert config.web.port == 9000
    assert config.web.enabled is False


def test_a_list_may_come_whole_from_the_environment(write) -> None:
    config = load_config(write("kafka: {topics: '${env:T}'}\n"), {"T": "[a, b]"})
    assert config.kafka.topics == ["a", "b"]


def test_text_of_the_environment_is_not_substituted_again(write) -> None:
    config = load_config(write("kafka: {client_id: '${env:A}'}\n"), {"A": "${env:B}", "B": "no"})
    assert config.kafka.client_id == "${env:B}"


def test_two_dollars_stand_for_one_before_a_brace(write) -> None:
    config = load_config(write("kafka: {client_id: 'a$${env:B}', group_id: 'cost$$'}\n"), {})
    assert config.kafka.client_id == "a${env:B}"
    assert config.kafka.group_id == "cost$$"


def test_variables_win_over_the_file(write) -> None:
    path = write("kafka: {topics: [a], group_id: g}\nfeatures: {x: {min: 1}}\n")
    config = load_config(
        path,
        {
            "INFEROMETER__KAFKA__TOPICS": "[b, c]",
            "INFEROMETER__FEATURES__x__MAX": "9",
            "INFEROMETER__FEATURES__Dep_Hour__KIND": "text",
            "INFEROMETER__MODELS": "[{name: m, versions: 3}]",
            "INFEROMETER__KAFKA": "{client_id: c, group_id: from-group}",
            "INFEROMETER__KAFKA__GROUP_ID": "from-name",
            "INFEROMETER__DECODE__FIELDS__FEATURES": "{a: b.c}",
            "INFEROMETER__DECODE__FIELDS__SEGMENT": "where",
            "INFEROMETER__EXPORT__OTLP__HEADERS": "{authorization: Bearer abc}",
            "INFEROMETER_KERNEL_CACHE": "/cache",
        },
    )
    assert config.kafka.topics == ["b", "c"]
    assert config.kafka.client_id == "c"
    assert config.kafka.group_id == "from-name"
    assert (config.features["x"].min, config.features["x"].max) == (1.0, 9.0)
    assert config.features["Dep_Hour"].kind is Kind.TEXT
    assert config.models[0].versions == 3
    assert config.decode.fields.features == {"a": "b.c"}
    assert config.decode.fields.segment == "where"
    assert config.export.otlp.headers == {"authorization": Secret("Bearer abc")}


def test_environment_is_a_copy() -> None:
    copy = environment()
    copy["INFEROMETER__KAFKA__TOPICS"] = "[x]"
    assert environment() != copy


# ------------------------------------------------ messages

MESSAGES = [
    # a typo, near another name
    (
        "kafka:\n  bootstrap_server: [a]\n",
        {},
        "inferometer.yaml:2: kafka.bootstrap_server is not an option; did you mean kafka.bootstrap_servers?",
    ),
    # the right name in the wrong group
    (
        "kafka:\n  width_s: 5\n",
        {},
        "inferometer.yaml:2: kafka.width_s is not an option; did you mean windows.width_s?",
    ),
    # nothing near: what there is
    (
        "log:\n  colour: red\n",
        {},
        "inferometer.yaml:2: log.colour is not an option; known here: level, format",
    ),
    # bounds, with unit
    (
        "\nkafka:\n  topics: [a]\n  session_timeout_s: 900\n",
        {},
        "inferometer.yaml:4: kafka.session_timeout_s is 900; must be a number from 1 to 300 (seconds)",
    ),
    (
        "windows: {idle_timeout_s: 0}\n",
        {},
        "inferometer.yaml:1: windows.idle_timeout_s is 0; must be a number above 0 and at most 86400 (seconds)",
    ),
    (
        "features: {x: {min: .nan}}\n",
        {},
        "inferometer.yaml:1: features.x.min is nan; must be a number",
    ),
    # a type
    (
        "windows: {width_s: 60s}\n",
        {},
        'inferometer.yaml:1: windows.width_s is "60s"; must be a number from 1 to 86400 (seconds)'
        "; write a plain number, without quotes or unit",
    ),
    (
        "kafka: {topics: predictions}\n",
        {},
        'inferometer.yaml:1: kafka.topics is "predictions"; must be a list of texts; write it as [a, b]',
    ),
    (
        "kafka:\n  topics:\n  - a\n  - 7\n",
        {},
        "inferometer.yaml:4: kafka.topics[1] is 7; must be text; put it in quotes",
    ),
    (
        "kafka: {bootstrap_servers: []}\n",
        {},
        "inferometer.yaml:1: kafka.bootstrap_servers is an empty list; must be a list of texts, at least one",
    ),
    (
        "web: {enabled: yes}\n",
        {},
        'inferometer.yaml:1: web.enabled is "yes"; must be true or false; write it without quotes',
    ),
    (
        "kafka: {group_id: ''}\n",
        {},
        'inferometer.yaml:1: kafka.group_id is ""; must be text, not empty',
    ),
    (
        "kafka: {group_id: }\n",
        {},
        "inferometer.yaml:1: kafka.group_id is null; must be text, not empty",
    ),
    (
        "kafka: 9092\n",
        {},
        "inferometer.yaml:1: kafka is a number; must be a group of options, such as bootstrap_servers",
    ),
    # one of a few words
    (
        "kafka: {isolation_level: read-commited}\n",
        {},
        'inferometer.yaml:1: kafka.isolation_level is "read-commited"; must be one of '
        "read_uncommitted, read_committed; did you mean read_committed?",
    ),
    (
        "features: {x: {kind: number}}\n",
        {},
        'inferometer.yaml:1: features.x.kind is "number"; must be one of '
        "numeric, categorical, boolean, text, vector; did you mean numeric?",
    ),
    # required
    (
        "models:\n- name: a\n- versions: 2\n",
        {},
        "inferometer.yaml:3: models[1].name is missing; must be text, not empty",
    ),
    # rules between options
    (
        "delivery:\n  drain_timeout_s: 30\n",
        {},
        "inferometer.yaml: delivery.drain_timeout_s is 30.0; must be below kafka.session_timeout_s (30.0)",
    ),
    (
        "kafka:\n  heartbeat_interval_s: 20\n",
        {},
        "inferometer.yaml:1: kafka: heartbeat_interval_s is 20.0; must be at most half of session_timeout_s (30.0)",
    ),
    (
        "kafka: {topic_pattern: '['}\n",
        {},
        "inferometer.yaml:1: kafka: topic_pattern is '['; not a regular expression "
        "(unterminated character set at position 0)",
    ),
    (
        "features: {x: {min: 3, max: 2}}\n",
        {},
        "inferometer.yaml:1: features.x: min is 3.0; must not be above max (2.0)",
    ),
    (
        "models:\n- {name: m, features: 2, categorical: 3}\n",
        {},
        "inferometer.yaml:2: models[0]: categorical is 3; must be at most features (2)",
    ),
    # secrets
    (
        "kafka:\n  sasl:\n    mechanism: PLAIN\n    password: 12345\n",
        {},
        "inferometer.yaml:4: kafka.sasl.password is *** (a number); must be a secret text; put it in quotes",
    ),
    (
        "kafka: {sasl: 'PLAIN:me:hunter2'}\n",
        {},
        "inferometer.yaml:1: kafka.sasl is text; must be a group of options, such as mechanism",
    ),
    # substitution
    (
        "kafka:\n  group_id: ${env:GROUP}\n",
        {},
        "inferometer.yaml:2: kafka.group_id needs the environment variable GROUP, which is not set; "
        "set it, or write ${env:GROUP:-default}",
    ),
    (
        "kafka:\n  group_id: ${GROUP}\n",
        {},
        "inferometer.yaml:2: kafka.group_id holds ${GROUP}; "
        "write ${env:NAME} or ${env:NAME:-default}, and $${ for a plain ${",
    ),
    (
        "web:\n  port: ${env:PORT}\n",
        {"PORT": "http"},
        'inferometer.yaml:2: web.port is "http"; must be a whole number from 0 to 65535'
        "; write a plain number, without quotes or unit",
    ),
    # variables
    (
        "",
        {"INFEROMETER__KAFKA__TOPIC": "a"},
        "INFEROMETER__KAFKA__TOPIC: there is no option kafka.topic; did you mean INFEROMETER__KAFKA__TOPICS?",
    ),
    (
        "",
        {"INFEROMETER__KAFKA__TOPICS": "a"},
        'INFEROMETER__KAFKA__TOPICS: kafka.topics is "a"; must be a list of texts; write it as [a, b]',
    ),
    (
        "",
        {"INFEROMETER__KAFKA__TOPICS__0": "a"},
        "INFEROMETER__KAFKA__TOPICS__0: kafka.topics has no options inside; "
        "set INFEROMETER__KAFKA__TOPICS to a YAML list",
    ),
    (
        "",
        {"INFEROMETER__KAFKA": "a"},
        "INFEROMETER__KAFKA: kafka must be a group of options, such as {bootstrap_servers: ...}; "
        "or set one option by a longer name",
    ),
    (
        "",
        {"INFEROMETER__KAFKA__GROUP_ID": "a", "INFEROMETER__kafka__group_id": "b"},
        "INFEROMETER__kafka__group_id and INFEROMETER__KAFKA__GROUP_ID name the same option; remove one",
    ),
    (
        "",
        {"INFEROMETER__WEB__PORT": "{a"},
        "INFEROMETER__WEB__PORT:1: not YAML: expected ',' or '}', but got '<stream end>'; check indentation and quotes there",
    ),
    (
        "",
        {"INFEROMETER__FEATURES__": "1"},
        "INFEROMETER__FEATURES__: a name is missing after features",
    ),
    # YAML
    (
        "kafka:\n  topics: [a]\n  topics: [b]\n",
        {},
        "inferometer.yaml:3: kafka.topics is given twice, first in line 2; remove one",
    ),
    (
        "kafka:\n  topics: [a\n",
        {},
        "inferometer.yaml:3: not YAML: expected ',' or ']', but got '<stream end>'; check indentation and quotes there",
    ),
    (
        "kafka: !!python/object:os.system {}\nlog: {level: !!binary aGk=}\n",
        {},
        "inferometer.yaml:2: log.level has the tag tag:yaml.org,2002:binary; remove it",
    ),
    (
        "a: &a {x: 1}\nkafka: {<<: *a}\n",
        {},
        "inferometer.yaml:2: merge keys (<<) are not supported; write the options out",
    ),
    (
        "kafka: &a\n  sasl: *a\n",
        {},
        "inferometer.yaml: nested too deeply, or an alias holds itself",
    ),
    ("[a]: 1\n", {}, "inferometer.yaml:1: a name must be plain text"),
    (
        "- a\n",
        {},
        "inferometer.yaml: the file holds a list; must be groups of options, such as `kafka:`",
    ),
    (b"kafka: \xff\n", {}, "inferometer.yaml: byte 7 is not UTF-8; save the file as UTF-8"),
]


@pytest.mark.parametrize(("text", "env", "message"), MESSAGES)
def test_a_mistake_is_one_line_with_place_value_bound_and_next_step(
    write, text: str | bytes, env: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(text), env)
    assert str(caught.value) == message


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_config(Path("none.yaml"), {})
    assert str(caught.value) == "none.yaml: no such file or directory; give the file with -c FILE"


def test_aliases_cannot_fill_the_memory(write) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(ConfigError, match="more than 100000 values; remove aliases"):
        load_config(write("\n".join(lines)), {})


def test_a_secret_is_in_no_message_and_no_dump(write) -> None:
    path = write(
        "kafka:\n  security_protocol: SASL_SSL\n"
        "  sasl: {mechanism: PLAIN, username: u, password: hunter2}\n"
        "export: {otlp: {endpoint: 'https://user:hunter2@host:4318', headers: {a: hunter2}}}\n"
    )
    config = load_config(path, {})
    assert config.kafka.sasl is not None
    assert config.kafka.sasl.password is not None
    assert config.kafka.sasl.password.reveal() == "hunter2"
    assert "hunter2" not in masked_yaml(config) + repr(config.kafka) + str(masked(config))
    assert masked(config)["kafka"]["sasl"]["password"] == "***"
    assert masked(config)["export"]["otlp"]["endpoint"] == "https://***@host:4318"


def test_no_part_of_an_address_that_may_be_secret_is_in_a_dump(write) -> None:
    """A gRPC endpoint with a user is refused by `check`; it is masked all the same."""
    text = """
export:
  otlp:
    endpoint: user:hunter2@host:4317
    metrics_endpoint: http://host:4318/v1?api-key=hunter2
    logs_endpoint: http://user:hun@ter2/hunter2@host:4318/v1#hunter2
respond:
  actions:
    - {name: a, webhook: {url: 'https://hooks.example/services/T0/hunter2?token=hunter2'}}
    - {name: b, alertmanager: {urls: ['https://am.example/team?token=hunter2', 'http://am:9093']}}
"""
    config = load_config(write(text), {})
    assert "hunter2" not in masked_yaml(config)
    shown = masked(config)
    otlp, (webhook, alertmanager) = shown["export"]["otlp"], shown["respond"]["actions"]
    assert otlp["endpoint"] == "***@host:4317"
    assert otlp["metrics_endpoint"] == "http://host:4318/v1?***"
    assert otlp["logs_endpoint"] == "http://***@host:4318/v1?***"
    assert webhook["webhook"]["url"] == "https://hooks.example/***?***"
    assert alertmanager["alertmanager"]["urls"] == [
        "https://am.example/team?***",
        "http://am:9093",
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("kafka: {bootstrap_servers: ['user:hunter2@h:1']}", '"***@h:1"'),
        ("kafka: {bootstrap_servers: ['kafka://user:hunter2@h:1']}", '"kafka://***@h:1"'),
        ("kafka: {bootstrap_servers: ['kafka://h:1/?password=hunter2']}", '"kafka://h:1/?***"'),
        ("kafka: {bootstrap_servers: 'user:hunter2@h:1'}", '"***@h:1"'),
        ("web: {port: 'http://h:1/?token=hunter2'}", '"http://h:1/?***"'),
    ],
)
def test_a_message_shows_an_address_without_what_may_be_secret(
    write, text: str, shown: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(write(text), {})
    assert "hunter2" not in str(raised.value)
    assert shown in str(raised.value)


def test_the_masked_dump_is_a_configuration_again(write) -> None:
    config = load_config(write("features: {x: {kind: text}}\nmodels: [{name: m}]\n"), {})
    assert load_config(write(masked_yaml(config)), {}) == config


def test_no_topics_is_said_with_the_next_step() -> None:
    with pytest.raises(ConfigError) as caught:
        require_topics(Config())
    assert str(caught.value) == (
        "kafka.topics is empty; name at least one topic (kafka.topics: [predictions], "
        "or INFEROMETER__KAFKA__TOPICS='[predictions]'), or set kafka.topic_pattern"
    )


def test_files_that_the_configuration_names_are_opened(write, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    config = load_config(write(f"kafka: {{tls: {{ca_file: {ca}}}}}\n"), {})
    with pytest.raises(ConfigError) as caught:
        check_files(config)
    assert str(caught.value) == (
        f"kafka.tls.ca_file is {ca}: no such file or directory; mount the file or correct the path"
    )
    ca.write_text("x")
    assert check_files(config) == [ca]

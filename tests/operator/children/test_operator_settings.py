"""What an administrator may set."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from semires_operator.settings import Settings, SettingsError, variable_of


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = Settings.from_environment({"PATH": "/bin", "SEMIRES_OPERATOR_WORKERS": ""})

    assert settings == Settings(identity=settings.identity)
    assert settings.watches("any")


def test_every_field_is_a_variable() -> None:
    given = {
        "SEMIRES_OPERATOR_NAMESPACES": "team-a, team-b,",
        "SEMIRES_OPERATOR_ENDPOINTS_FILE": "/etc/semires/endpoints.yaml",
        "SEMIRES_OPERATOR_MAX_FREE_RETRIES": "0",
        "SEMIRES_OPERATOR_POLL_SECONDS": "0.5",
        "SEMIRES_OPERATOR_LOG_FORMAT": "text",
    }

    settings = Settings.from_environment(given)

    assert settings.namespaces == ("team-a", "team-b")
    assert settings.watches("team-b")
    assert not settings.watches("team-c")
    assert settings.endpoints_file == Path("/etc/semires/endpoints.yaml")
    assert (settings.max_free_retries, settings.poll_seconds, settings.log_format) == (0, 0.5, "text")
    assert {variable_of(field.name) for field in fields(Settings)} >= given.keys()


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        pytest.param("NAMESPACES", "team-a,Team_B", "not a namespace", id="namespace"),
        pytest.param("WORKERS", "many", "not a whole number", id="word"),
        pytest.param("WORKERS", "0", "not positive", id="zero"),
        pytest.param("POLL_SECONDS", "nan", "not a number of seconds", id="nan"),
        pytest.param("HTTP_PORT", "70000", "no port", id="port"),
        pytest.param("LOG_LEVEL", "loud", "DEBUG, INFO, WARNING, ERROR", id="choice"),
        pytest.param("TRAINER_IMAGE", "-rm", "not an image", id="image"),
        pytest.param("LEASE_SECONDS", "8", "is not greater than", id="lease"),
        pytest.param("BACKOFF_LONGEST_SECONDS", "1", "BACKOFF_FIRST_SECONDS", id="back-off"),
        pytest.param("IMAGE_PULL_SECRETS", "a b", "a Secret's name", id="secret"),
    ],
)
def test_a_wrong_value_is_told_with_variable_and_remedy(variable: str, value: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({f"SEMIRES_OPERATOR_{variable}": value})

    assert str(caught.value).startswith(f"SEMIRES_OPERATOR_{variable}=")
    assert words in str(caught.value)
    assert ". " in str(caught.value)


def test_a_misspelt_variable_is_told_with_the_right_one() -> None:
    with pytest.raises(SettingsError, match="Did you mean SEMIRES_OPERATOR_TRAINER_IMAGE"):
        Settings.from_environment({"SEMIRES_OPERATOR_TRAINERS_IMAGE": "x"})


def test_variables_of_a_service_beside_it_are_no_settings() -> None:
    links = {"SEMIRES_OPERATOR_PORT": "tcp://10.0.0.1:80", "SEMIRES_OPERATOR_SERVICE_HOST": "10.0.0.1"}

    assert Settings.from_environment(links).http_port == 8080

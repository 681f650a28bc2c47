"""The settings and their one table."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import PydanticUndefined

from core.settings import Metrics, Settings

DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"


def shown(value: object) -> str:
    """A default as the table shows it."""
    match value:
        case None | () | {} | "":
            return "–"
        case SecretStr():
            return f"`{value.get_secret_value()}`"
        case Path():
            return "`{prefix}/share/outfill/models`"
        case tuple():
            return f"`{','.join(f'{item:g}' for item in value)}`"
        case float():
            return f"`{value:g}`"
    return f"`{value}`"


def expected_table() -> str:
    """The table that docs/operations.md must hold."""
    lines = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for section, field in Settings.model_fields.items():
        kind = field.annotation
        assert isinstance(kind, type)
        assert issubclass(kind, BaseModel)
        for name, option in kind.model_fields.items():
            assert option.description, f"{section}.{name} has no description"
            default = option.default_factory() if option.default_factory else option.default  # type: ignore[call-arg]
            assert default is not PydanticUndefined
            lines.append(f"| `OUTFILL_{section}__{name}`".upper() + f" | {shown(default)} | {option.description} |")
    return "\n".join(lines)


def test_the_table_of_settings_is_true() -> None:
    """docs/operations.md lists every variable with its default and meaning, and no other."""
    table = expected_table()
    assert table in DOCUMENT.read_text(), f"put this table into docs/operations.md:\n{table}"


def test_a_misspelt_section_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that no setting reads is an error with its name; one without a section is somebody else's."""
    monkeypatch.setenv("OUTFILL_URL", "http://127.0.0.1:8000")
    assert Settings()
    monkeypatch.setenv("OUTFILL_BACKUPS__KEY", "0" * 64)
    with pytest.raises(ValidationError, match=r"OUTFILL_BACKUPS__KEY: there is no section BACKUPS; there are REDIS, S3, "):
        Settings()


@pytest.mark.parametrize(
    "command",
    [("-m", "worker", "steward"), ("-m", "service.cli", "keys", "list"), ("-m", "uvicorn", "service.app:create_app", "--factory")],
)
def test_every_fault_is_told_by_its_variable_and_without_its_value(command: tuple[str, ...]) -> None:
    """A process that cannot start says all that is wrong in one go, and shows no trace and no secret."""
    faults = {
        "OUTFILL_LIMITS__UPLOADS": "-1",
        "OUTFILL_WORKER__STALL_S": "tell-nobody",
        "OUTFILL_S3__BUKCET": "tell-nobody",
        "OUTFILL_AUTH__KEYS": '[{"tenant": "Shop", "sha256": "tell-nobody"}]',
    }
    run = subprocess.run([sys.executable, *command], env={**os.environ, **faults}, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    told = run.stdout + run.stderr
    assert "Traceback" not in told
    assert "tell-nobody" not in told
    assert told.startswith("These settings cannot be used:\n")
    assert "  OUTFILL_LIMITS__UPLOADS: Input should be greater than or equal to 0\n" in told
    assert "  OUTFILL_S3__BUKCET: there is no such setting; OUTFILL_S3__BUCKET is one\n" in told
    assert set(re.findall(r"^  (\w+):", told, re.MULTILINE)) == set(faults)


def test_what_is_not_json_is_told_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list or table that cannot be read names its variable and the place where reading ended."""
    monkeypatch.setenv("OUTFILL_AUTH__KEYS", '[{"tenant"]')
    with pytest.raises(SystemExit, match=r"OUTFILL_AUTH__KEYS: is not JSON: Expecting ':' delimiter at character 11$"):
        Settings.read()
    monkeypatch.setenv("OUTFILL_AUTH__KEYS", "tell-nobody")
    with pytest.raises(SystemExit, match=r'field "auth"') as told:
        Settings.read()
    assert "tell-nobody" not in str(told.value)


def test_nested_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two underscores go one level down; lists are comma-separated."""
    monkeypatch.setenv("OUTFILL_OUTBOUND__ALLOW_PRIVATE", "127.0.0.1/32, 10.0.0.0/8")
    monkeypatch.setenv("OUTFILL_WORKER__SERVE", "exemplar,backdrop")
    settings = Settings()
    assert [str(network) for network in settings.outbound.allow_private] == ["127.0.0.1/32", "10.0.0.0/8"]
    assert settings.worker.serve == ("exemplar", "backdrop")


@pytest.mark.parametrize(
    ("name", "value"), [("OUTFILL_S3__BUKCET", "x"), ("OUTFILL_WORKER__SLOTS", "0"), ("OUTFILL_LOGGING__FORMAT", "xml")]
)
def test_a_wrong_variable_stops_the_start(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A misspelt name in a section, or a value out of range, is an error and not a default."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError):
        Settings()


def every_variable() -> list[str]:
    """The names of all settings."""
    sections = ((section, field.annotation) for section, field in Settings.model_fields.items())
    return [f"OUTFILL_{section}__{name}".upper() for section, kind in sections for name in kind.model_fields]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", every_variable())
def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Compose writes `${VAR:-}` as one, and so does a key that a secret lacks."""
    monkeypatch.setenv(name, "")
    assert Settings() == Settings.model_construct()


def test_an_empty_token_is_none() -> None:
    """It would open the metrics to everybody."""
    with pytest.raises(ValidationError):
        Metrics.model_validate({"token": ""})


@pytest.mark.parametrize("origin", ["shop.example", "https://shop.example/", "https://Shop.example", "https://shop.example/x", "null"])
def test_an_origin_is_as_browsers_send_it(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    """Any other would match no page, without a word."""
    monkeypatch.setenv("OUTFILL_HTTP__CORS_ORIGINS", origin)
    with pytest.raises(ValidationError):
        Settings()


@pytest.mark.parametrize("prefix", ["outfill", "/outfill/", "/", "//x", "/a b"])
def test_a_prefix_begins_with_a_slash_and_does_not_end_with_one(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    """Paths are put behind it as they are."""
    monkeypatch.setenv("OUTFILL_HTTP__ROOT_PATH", prefix)
    with pytest.raises(ValidationError):
        Settings()


def test_secrets_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The repr of the settings shows no secret."""
    monkeypatch.setenv("OUTFILL_S3__SECRET_ACCESS_KEY", "very-secret")
    monkeypatch.setenv("OUTFILL_REDIS__URL", "redis://:hunter2@localhost/0")
    assert "very-secret" not in repr(Settings())
    assert "hunter2" not in repr(Settings())


def test_settings_do_not_change() -> None:
    """The object is frozen, its sections too."""
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.worker.slots = 3  # type: ignore[misc]

"""Everything that a deployment chooses, and nothing that belongs in code.

From ``minuet.toml``, the environment (``MINUET_...``) and the command line, each stronger than the one before.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticKnownError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from minuet.core.errors import ConfigurationError
from minuet.core.projection import Coordination

FILE = Path("minuet.toml")
PREFIX = "MINUET_"
SHOWN_MAX = 60
NOT_SETTINGS = ("MINUET_DEBUG", "MINUET_OPERATOR")
"""Variables that mean something to the command line only."""
BY_NAME = ("coordination", "queries", "stores", "participants", "limits")
"""Settings whose keys are names in the app; a variable's name keeps them as they are written."""
EXAMPLES = {
    "coordination": ("OrderProcessing", "orchestration"),
    "queries": ("GetOrder", "read_model"),
    "stores": ("default", "memory:"),
    "channels": ("*", "memory:"),
    "orchestration": ("participants", "http"),
    "participants": ("payment", "http://127.0.0.1:8001"),
    "reconciliation": ("every_s", "30"),
    "retention": ("keep_days", "90"),
    "limits": ("payment", {"in_flight": 20}),
    "app": ("name", "value"),
}
WORDS = {
    "path_type": "a path",
    "string_type": "a text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "a table",
    "model_type": "a table",
}
"""What pydantic's errors of these types want."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """Settings that came from one place.

    Attributes:
        names: of each setting, where exactly it was given, if that is not just the place.
    """

    place: str
    values: Mapping[str, Any]
    names: Mapping[tuple[str, ...], str] = field(default_factory=dict)

    def where(self, path: tuple[str, ...]) -> str | None:
        """Where it gives the setting, if it does."""
        value: Any = self.values
        for part in path:
            if not isinstance(value, Mapping):
                break
            found = [key for key in value if key.casefold() == part.casefold()]
            if not found:
                return None
            value = value[found[0]]
        folded = tuple(part.casefold() for part in path)
        return next(
            (self.names[folded[:end]] for end in range(len(path), 0, -1) if folded[:end] in self.names), self.place
        )


def _no_truth_value(value: Any) -> Any:
    """Python takes ``true`` for 1, which nobody means."""
    if isinstance(value, bool):
        raise PydanticKnownError("float_type")
    return value


Count = Annotated[int, BeforeValidator(_no_truth_value)]
Amount = Annotated[float, BeforeValidator(_no_truth_value)]

Way = Literal["local", "http", "commands"]
WAYS: tuple[str, ...] = ("local", "http", "commands")


class Orchestration(BaseModel):
    """How the conductor works.

    Attributes:
        engine: ``embedded``, or ``temporal://host:7233/namespace``; see docs/adapters/temporal.md.
        participants: how they are asked, if ``[participants]`` says nothing else of one: ``local``, in process where
            the service runs here, else over HTTP; ``http``, always over HTTP; ``commands``, by a message on the
            channel ``<service>.commands``, answered by the event that everybody hears.
        ask_again_s: after how long a participant that was asked by a message and is silent is asked again.
    """

    model_config = ConfigDict(extra="forbid")

    engine: str = Field("embedded", repr=False)
    participants: Way = "local"
    ask_again_s: Amount = Field(30.0, gt=0)


class Reconciliation(BaseModel):
    """How a process that runs the whole app looks for what brokers have lost. For others: `minuet sagas reconcile`."""

    model_config = ConfigDict(extra="forbid")

    every_s: Amount = Field(60.0, ge=0, description="0: never")
    after_s: Amount = Field(60.0, ge=0, description="what was told less long ago is only on its way")
    back_s: Amount = Field(86_400.0, gt=0, description="older sagas are not looked at when the process starts")


class Retention(BaseModel):
    """How long what is over is kept."""

    model_config = ConfigDict(extra="forbid")

    keep_days: Amount = Field(0, ge=0, description="longer than any saga takes, and any retry; 0: for ever")


class Limit(BaseModel):
    """How much of a participant's work each process does; of the orchestrator, how much it asks of the participant.

    Attributes:
        in_flight: so many attempts at once, at most.
        rate_per_s: so many attempts are begun in a second, and a tenth of it at once, at most.
    """

    model_config = ConfigDict(extra="forbid")

    in_flight: Count | None = Field(None, ge=1)
    rate_per_s: Amount | None = Field(None, gt=0, allow_inf_nan=False)


TABLES: Mapping[str, type[BaseModel]] = {
    "orchestration": Orchestration,
    "reconciliation": Reconciliation,
    "retention": Retention,
    "limits": Limit,
}


class Settings(BaseSettings):
    """A deployment.

    Attributes:
        data: the folder of the embedded databases; processes that share it form one system.
        host, port: where HTTP is served; port 0 takes a free one.
        coordination: per saga, ``choreography`` (the default) or ``orchestration``.
        queries: per query, ``origin`` (the default: ask the service) or ``read_model`` (a local copy, kept by events).
        stores: per service, and ``default``: ``sqlite:`` (a file in ``data``), ``sqlite:///folder/{service}.db``,
            ``postgresql://...`` (a schema for each service) or ``memory:``.
        channels: per channel pattern, first match wins: ``embedded:`` (a file in ``data``), ``memory:``, or a broker:
            ``kafka://host:9092/topic``, ``amqp://host/exchange``, ``nats://host/stream``, ``sns://arn...``,
            ``redis://host/0``; see docs/adapters.
        provision: make what is missing in PostgreSQL and on brokers, at the start. Without it tables, topics and queues
            are only checked, and made by ``minuet store migrate`` and ``minuet topology apply``. Files are always made.
        participants: per service, the URL of one that is not found through ``data``; or how the orchestrator asks it,
            as `Orchestration` says.
        reconciliation: how often it is looked for messages that were told and never heard.
        retention: how long sagas that are over, and the marks of what was done, are kept; by default for ever.
        limits: per service, how much of its work each process does at a time, as `Limit` says.
        app: the app's own settings, handed to its providers.
    """

    model_config = SettingsConfigDict(extra="forbid", validate_default=False)

    data: Path = Path(".minuet")
    host: str = "127.0.0.1"
    port: Count = Field(8000, ge=0, le=65535)
    coordination: dict[str, Coordination] = {}
    queries: dict[str, Literal["origin", "read_model"]] = {}
    stores: dict[str, str] = {"default": "sqlite:"}
    channels: dict[str, str] = {"*": "embedded:"}
    orchestration: Orchestration = Orchestration()
    participants: dict[str, str] = {}
    provision: bool = True
    reconciliation: Reconciliation = Reconciliation()
    retention: Retention = Retention()
    limits: dict[str, Limit] = {}
    app: dict[str, Any] = {}
    grace_s: Amount = Field(10.0, gt=0, description="how long a stop waits for what is under way")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        assert isinstance(init_settings, InitSettingsSource)
        given = init_settings.init_kwargs
        # What is given is the strongest, and its spelling counts.
        return (InitSettingsSource(settings_cls, _merged(given, _environment().values, given)),)

    @classmethod
    def load(cls, file: Path | None = None, **flags: Any) -> Settings:
        """The settings of this deployment.

        Args:
            file: the TOML file; by default ``minuet.toml`` in the working directory, if there is one.
            flags: what the command line says; None means that it does not say.

        Raises:
            ConfigurationError: says which setting is wrong, and where.
        """
        said = {name: value for name, value in flags.items() if value is not None}
        by_flag = _Layer("settings", said, {(name,): f"--{name.replace('_', '-')}" for name in said})
        layers = (_file(file), _environment(is_strict=True), by_flag)
        try:
            return cls(**_merged(*(layer.values for layer in layers)))
        except ValidationError as error:
            wrong = (_in_words(one, layers) for one in error.errors())
            raise ConfigurationError("; ".join(dict.fromkeys(wrong))) from error


def way_of(settings: Settings, service: str) -> str:
    """How the orchestrator asks the service: ``local``, ``http`` or ``commands``."""
    given = settings.participants.get(service, "")
    return given if given in WAYS else settings.orchestration.participants


def writable(data: Path) -> Path:
    """Make the folder of the databases, if there is none.

    Raises:
        ConfigurationError: nothing can be written there.
    """
    try:
        data.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=data):
            pass
    except OSError as error:
        why = "it is not a folder" if isinstance(error, FileExistsError) else error.strerror
        raise ConfigurationError(f"cannot write in {data}: {why}; choose another folder with --data") from error
    return data


def spelled(given: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The same with the app's spelling of each name; variables are often written in capitals."""
    known = {name.casefold(): name for name in names}
    return {known.get(name.casefold(), name): value for name, value in given.items()}


def _merged(*weakest_first: Mapping[str, Any]) -> dict[str, Any]:
    """One in the other. Names match without regard to case, for those of variables have none."""
    merged: dict[str, Any] = {}
    for values in weakest_first:
        known = {name.casefold(): name for name in merged}
        for given, value in values.items():
            name = known.get(given.casefold(), given)
            before = merged.get(name)
            if isinstance(before, Mapping) and isinstance(value, Mapping):
                value = _merged(before, value)
            merged[name] = value
    return merged


def _file(file: Path | None) -> _Layer:
    path = file or FILE
    place = f"settings in {path}"
    if not path.exists():
        if file is not None:
            raise ConfigurationError(f"there is no settings file {file}")
        return _Layer(place, {})
    try:
        return _Layer(place, tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise ConfigurationError(f"{place} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(f"{place} are not TOML: {error}") from error


def _environment(*, is_strict: bool = False) -> _Layer:
    """What variables like ``MINUET_PORT`` and ``MINUET_COORDINATION__OrderProcessing`` say.

    Args:
        is_strict: whether variables that name no setting are mistakes.
    """
    values: dict[str, Any] = {}
    names: dict[tuple[str, ...], str] = {}
    # The short names first: what is said of one key is stronger than what is said of all.
    for variable in sorted(name for name in os.environ if name.upper().startswith(PREFIX)):
        setting, *keys = variable[len(PREFIX) :].split("__")
        setting = setting.lower()
        if setting not in Settings.model_fields or (keys and setting not in EXAMPLES):
            if is_strict and variable.upper() not in NOT_SETTINGS:
                raise ConfigurationError(f"the variable {variable} is no setting; there are {_variables()}")
            continue
        kept = 1 if setting in BY_NAME else 0
        path = (setting, *keys[:kept], *map(str.lower, keys[kept:]))
        names[tuple(part.casefold() for part in path)] = variable
        value: Any = _value(variable, setting, keys, os.environ[variable])
        for part in reversed(path):
            value = {part: value}
        values = _merged(values, value)
    return _Layer("the environment", values, names)


def _value(variable: str, setting: str, keys: list[str], text: str) -> Any:
    """The text; or the object that it is in JSON, where the setting is one."""
    if setting not in EXAMPLES or (keys and setting != "app"):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if isinstance(value, dict) or (keys and isinstance(value, list)):
        return value
    if keys:
        return text
    key, wanted = EXAMPLES[setting]
    nested = f" or {variable}__{key}={wanted}" if key.isidentifier() else ""
    raise ConfigurationError(
        f"the variable {variable} must be a JSON object, not {_shown(text)}; "
        f"write {variable}='{json.dumps({key: wanted})}'{nested}"
    )


def _variables() -> str:
    settings = (f"{PREFIX}{name.upper()}{'__...' if name in EXAMPLES else ''}" for name in Settings.model_fields)
    return ", ".join((*settings, *NOT_SETTINGS))


def _in_words(error: ErrorDetails, layers: Iterable[_Layer]) -> str:
    """What is wrong, and where it was said."""
    path = tuple(map(str, error["loc"]))
    places = [found for layer in layers if (found := layer.where(path))]
    where = places[-1] if places else "settings"
    name = ".".join(path)
    if error["type"] == "extra_forbidden":
        known = Settings.model_fields if len(path) == 1 else TABLES[path[0]].model_fields
        inside = f" in [{path[0]}]" if len(path) > 1 else ""
        return f'{where}: there is no setting "{path[-1]}"{inside}; there are {", ".join(known)}'
    wanted = WORDS.get(error["type"]) or error["msg"].removeprefix("Input should be ")
    return f"{where}: {name} must be {wanted}, not {_shown(error['input'])}"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}..."

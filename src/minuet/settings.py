"""Everything that a deployment chooses, and nothing that belongs in code.

From ``minuet.toml``, the environment (``MINUET_...``) and the command line, each stronger than the one before.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from minuet.core.errors import ConfigurationError
from minuet.core.projection import Coordination

FILE = Path("minuet.toml")


class Orchestration(BaseModel):
    """How the conductor works."""

    model_config = ConfigDict(extra="forbid")

    engine: Literal["embedded"] = "embedded"
    participants: Literal["local", "http"] = Field(
        "local", description="local: in process where the service runs here, else over HTTP. http: always over HTTP."
    )


class Settings(BaseSettings):
    """A deployment.

    Attributes:
        data: the folder of the embedded databases; processes that share it form one system.
        host, port: where HTTP is served; port 0 takes a free one.
        coordination: per saga, ``choreography`` (the default) or ``orchestration``.
        queries: per query, ``origin`` (the default: ask the service) or ``read_model`` (a local copy, kept by events).
        stores: per service, and ``default``: ``sqlite:`` (a file in ``data``) or ``memory:``.
        channels: per channel pattern, first match wins: ``embedded:`` (a file in ``data``) or ``memory:``.
        participants: per service, the URL of one that is not found through ``data``.
        app: the app's own settings, handed to its providers.
    """

    model_config = SettingsConfigDict(
        env_prefix="MINUET_", env_nested_delimiter="__", extra="forbid", validate_default=False
    )

    data: Path = Path(".minuet")
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    coordination: dict[str, Coordination] = {}
    queries: dict[str, Literal["origin", "read_model"]] = {}
    stores: dict[str, str] = {"default": "sqlite:"}
    channels: dict[str, str] = {"*": "embedded:"}
    orchestration: Orchestration = Orchestration()
    participants: dict[str, str] = {}
    app: dict[str, Any] = {}
    grace_s: float = Field(10.0, gt=0, description="how long a stop waits for what is under way")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings

    @classmethod
    def load(cls, file: Path | None = None, **flags: Any) -> Settings:
        """The settings of this deployment.

        Args:
            file: the TOML file; by default ``minuet.toml`` in the working directory, if there is one.
            flags: what the command line says; None means that it does not say.

        Raises:
            ConfigurationError: says which setting is wrong, and where.
        """
        if file is not None and not file.exists():
            raise ConfigurationError(f"there is no settings file {file}")

        class Loaded(cls):  # type: ignore[misc, valid-type]
            @classmethod
            def settings_customise_sources(
                cls,
                settings_cls: type[BaseSettings],
                init_settings: PydanticBaseSettingsSource,
                env_settings: PydanticBaseSettingsSource,
                *_: Any,
                **__: Any,
            ) -> tuple[PydanticBaseSettingsSource, ...]:
                return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, file or FILE)

        try:
            loaded = Loaded(**{name: value for name, value in flags.items() if value is not None})
        except ValidationError as error:
            found = "; ".join(
                f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_input=False)
            )
            raise ConfigurationError(f"settings: {found}") from error
        except ValueError as error:
            raise ConfigurationError(f"settings in {file or FILE}: {error}") from error
        # Deliberately the plain class: what was loaded must not be read from the environment again.
        return cls.model_construct(**{name: getattr(loaded, name) for name in cls.model_fields})

"""compose.yaml offers the servers of dev/services, to this machine only, under the same variables."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.servers import together

REPOSITORY = Path(__file__).parents[3]
COMPOSE = REPOSITORY / "compose.yaml"
PAGE = REPOSITORY / "docs" / "development-servers.md"
SERVICES: Mapping[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]


def test_it_has_the_same_servers() -> None:
    assert set(SERVICES) == set(together.SERVERS)


@pytest.mark.parametrize("name", together.SERVERS)
def test_a_server_is_for_this_machine_only_and_says_when_it_is_ready(name: str) -> None:
    (port,) = SERVICES[name]["ports"]
    assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port)
    assert SERVICES[name]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert re.search(r":[\d.]+(-alpine)?$", SERVICES[name]["image"]), "a version, not whatever is newest"


@pytest.mark.parametrize("name", together.SERVERS)
@pytest.mark.parametrize("text", [COMPOSE, PAGE], ids=["compose.yaml", "page"])
def test_the_address_is_written_down(name: str, text: Path) -> None:
    port = SERVICES[name]["ports"][0].split(":")[1]
    assert re.search(rf"{together.variable(name)}\S*[=` |]+\w+://\S*127\.0\.0\.1:{port}", text.read_text())


def test_the_files_that_it_hands_in_are_there() -> None:
    configs: Mapping[str, Mapping[str, str]] = yaml.safe_load(COMPOSE.read_text())["configs"]
    for config in configs.values():
        assert "content" in config or (REPOSITORY / config["file"]).is_file()

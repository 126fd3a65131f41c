"""The worked example of docs/adapters/how-to-write-one.md, run: its suite becomes part of this module."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "adapters" / "how-to-write-one.md"
EXAMPLE = re.compile(r"<!-- executed by (\S+) -->\n```python\n(.*?)```", re.DOTALL)

((executed_by, example),) = EXAMPLE.findall(PAGE.read_text())
exec(compile(example, str(PAGE), "exec"), globals())  # defines TestShelf


def test_the_page_says_where_it_is_run() -> None:
    assert Path(__file__).as_posix().endswith(executed_by)
    assert "TestShelf" in globals()

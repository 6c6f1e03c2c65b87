"""The command line as its own process: what it loads, what it does when the reader leaves, where it keeps silent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.fake import FakeApplication, environment_view

from rebake.core.home import Home

HEAVY = (
    "pydantic", "sqlalchemy", "alembic", "rich", "yaml", "httpx", "starlette", "uvicorn", "anyio", "asyncio", "numpy",
    "scipy", "rebake.app", "rebake.spec.model", "subprocess", "importlib.metadata",
)  # fmt: skip
_PROBE = """
import sys
from rebake.cli.root import run
code = run(sys.argv[1:])
print(*sorted(sys.modules), sep="\\n", file=open(4, "w"))
sys.exit(code)
"""


def typed_in_a_process(home: Home, *args: str) -> tuple[int, str, set[str]]:
    """Exit code, standard output, and every module that was loaded."""
    reading, writing = os.pipe()
    script = f"import os; os.dup2({writing}, 4)\n" + _PROBE
    env = {**os.environ, "REBAKE_HOME": str(home.root)}
    command = [sys.executable, "-c", script, *args]
    done = subprocess.run(command, env=env, pass_fds=[writing], capture_output=True, text=True, check=False)
    os.close(writing)
    with os.fdopen(reading) as file:
        modules = set(file.read().split())
    assert done.stderr == ""
    assert "rebake.errors" in modules
    return done.returncode, done.stdout, modules


def test_help_loads_nothing_heavy(home: Home) -> None:
    code, out, modules = typed_in_a_process(home, "--help")
    assert code == 0
    assert "deploy" in out
    assert not modules & {*HEAVY, "http.client", "ssl", "json"}


@pytest.mark.parametrize("words", ["status", "status production", "undo production", "stop production"])
def test_what_must_be_quick_loads_nothing_heavy(words: str, home: Home, application: FakeApplication) -> None:
    Path("rebake.yaml").write_text("service: guestbook\n")
    code, _, modules = typed_in_a_process(home, *words.split())
    assert code == 0
    assert not modules & set(HEAVY)


def test_importing_the_package_loads_no_click() -> None:
    script = "import rebake.cli, sys; sys.exit('click' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_registrys_client_brings_no_command_line_of_its_own() -> None:
    script = "import rebake.registry.client, httpx, sys; sys.exit('rich' in sys.modules or 'click' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_reader_who_leaves_is_no_error(home: Home, application: FakeApplication) -> None:
    application.environments = [environment_view(environment=f"e{n}") for n in range(2000)]
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "rebake.cli", "status"]
    env = {**os.environ, "REBAKE_HOME": str(home.root)}
    with subprocess.Popen(command, env=env, stdout=writing, stderr=subprocess.PIPE, text=True) as process:
        os.close(writing)
        assert os.read(reading, 10)
        os.close(reading)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")


def test_exit_code_and_streams_of_a_mistake(home: Home) -> None:
    env = {**os.environ, "REBAKE_HOME": str(home.root)}
    command = [sys.executable, "-m", "rebake.cli", "deploy", "production"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error[no-rebake-yaml]: ")


def test_the_tab_key_knows_environments_of_the_file_and_of_the_agent(home: Home, application: FakeApplication) -> None:
    Path("rebake.yaml").write_text("service: x\nenvironments: {preview: {}, production: {}}\n")
    env = {
        **os.environ,
        "REBAKE_HOME": str(home.root),
        "_REBAKE_COMPLETE": "bash_complete",
        "COMP_WORDS": "rebake undo pr",
        "COMP_CWORD": "2",
    }
    done = subprocess.run([sys.executable, "-m", "rebake.cli"], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["plain,preview", "plain,production"]

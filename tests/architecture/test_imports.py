"""What loading a part loads: the second wall behind the import contracts, which see only text."""

import json
import subprocess
import sys

import pytest

SERVER_SIDE = {"fastapi", "sqlalchemy", "pydantic", "streamlit", "pandas", "starlette", "uvicorn"}
HEAVY = {"torch", "numpy", "msgspec", "rich", "typer"}


def loaded_by(statement: str) -> set[str]:
    """Return the top-level modules a fresh interpreter has loaded after `statement`."""
    probe = (
        f"{statement}\nimport sys, json\nprint(json.dumps([m.split('.')[0] for m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_trainvitals_loads_nothing_heavy():
    assert not loaded_by("import trainvitals") & (HEAVY | SERVER_SIDE)


@pytest.mark.parametrize(
    "part", ["wire", "ship", "diagnosis.examine", "diagnosis.registry", "report"]
)
def test_the_shared_parts_load_neither_torch_nor_the_server(part):
    assert not loaded_by(f"import trainvitals.{part}") & (SERVER_SIDE | {"torch"})


def test_the_remedies_are_loaded_on_first_use():
    used = "import trainvitals; trainvitals.remedies.identify; trainvitals.remedies.biases"
    loaded = loaded_by(used)
    assert "torch" in loaded
    assert not loaded & SERVER_SIDE


def test_watching_loads_no_server():
    assert not loaded_by("import trainvitals; trainvitals.watch") & SERVER_SIDE


def test_the_collector_loads_no_torch_and_no_dashboard():
    loaded = loaded_by("import trainvitals_server.app")
    assert not loaded & {"torch", "streamlit", "trainvitals_dashboard"}


def test_a_store_on_sqlite_loads_no_driver_of_postgres(tmp_path):
    opened = f"Store.open('sqlite:///{tmp_path / 'x.db'}').close()"
    loaded = loaded_by(f"from trainvitals_server.store import Store; {opened}")
    assert "sqlalchemy" in loaded
    assert not loaded & {"psycopg"}


def test_the_dashboard_loads_no_torch_and_no_database():
    loaded = loaded_by("import trainvitals_dashboard.client")
    assert not loaded & {"torch", "sqlalchemy", "trainvitals_server"}

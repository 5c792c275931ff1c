"""The description of the HTTP API is the one in openapi.json: a change of it is deliberate.

`python tests/server/query/test_openapi_snapshot.py` writes the file anew.
"""

import json
from pathlib import Path

from trainvitals_server.app import create_app
from trainvitals_server.settings import Settings

SNAPSHOT = Path(__file__).with_name("openapi.json")


def described() -> str:
    api = create_app(Settings()).openapi()
    api["info"]["version"] = "any"
    return json.dumps(api, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def test_the_api_is_described_as_in_the_snapshot():
    assert json.loads(described()) == json.loads(SNAPSHOT.read_text()), (
        "The HTTP API has changed. If that is intended, write its description anew: "
        f"python {SNAPSHOT.with_name(Path(__file__).name)}"
    )


if __name__ == "__main__":
    SNAPSHOT.write_text(described())

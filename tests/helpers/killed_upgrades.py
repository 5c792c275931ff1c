"""Upgrade a database again and again, killed by SIGKILL before each n-th statement in turn.

Run as `python -m helpers.killed_upgrades URL N`, because a process with the threads of a test
runner must not fork. Prints the number of kills. Exits with a message when a killed upgrade has
changed anything; at the end the database is upgraded.
"""

import os
import signal
import sys

import sqlalchemy as sa

from trainvitals_server.store.migrate import migrate, parsed


def content(url: str) -> dict[str, object]:
    """Return the columns and the rows of every table."""
    engine = sa.create_engine(parsed(url), poolclass=sa.pool.NullPool)
    with engine.connect() as connection:
        inspector = sa.inspect(connection)
        return {
            name: (
                [(column["name"], str(column["type"])) for column in inspector.get_columns(name)],
                sorted(index["name"] or "" for index in inspector.get_indexes(name)),
                sorted(map(repr, connection.execute(sa.text(f'SELECT * FROM "{name}"')))),
            )
            for name in sorted(inspector.get_table_names())
        }


def upgrade(url: str, statements: int) -> bool:
    """Upgrade in a child process that is killed after `statements`; whether it ended by itself."""
    child = os.fork()
    if child == 0:
        left = iter(range(statements))

        def count(*_: object) -> None:
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sa.event.listen(sa.Engine, "before_cursor_execute", count)
        sa.event.listen(sa.Engine, "commit", count)
        migrate(url)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0


def main(url: str, every: int) -> None:
    before = content(url)
    kills = 0
    while not upgrade(url, kills * every):
        after = content(url)
        if after != before:
            tables = sorted(name for name in before | after if before.get(name) != after.get(name))
            sys.exit(f"Killed after {kills * every} statements, it has changed {tables}.")
        kills += 1
    print(kills)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

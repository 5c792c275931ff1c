"""Alembic's entry: always with the connection that `migrate` opened."""

from alembic import context

from trainvitals_server.store.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()

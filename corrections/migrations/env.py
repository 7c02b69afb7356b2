"""What alembic runs to run the steps: on the connection that `corrections.schema.upgrade` hands over."""

from alembic import context

from corrections.schema import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table="corrections_version",  # other tables may live in the same database
)
with context.begin_transaction():
    context.run_migrations()

"""Run one service's Alembic history on the connection that `shared.migrating` hands over."""  # noqa: INP001 - Alembic runs it as a script

from alembic import context

owner = context.config.attributes["owner"]
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=owner.metadata,
    version_table=f"{owner.name}_alembic",
    include_name=lambda name, kind, _parents: kind != "table" or name in owner.metadata.tables,
    render_as_batch=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()

"""The command line. `habeas --help` is the menu."""

import os

import typer

from habeas.commands import running, upkeep
from habeas.commands.check_register import check_register
from habeas.commands.due import due
from habeas.commands.verify_package import verify_package

app = typer.Typer(
    help="Habeas answers people who ask for their personal data. Start with `habeas demo`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
audit = typer.Typer(help="The ledger: what happened, in one chain.", no_args_is_help=True)


@app.callback()
def _private() -> None:
    # Whatever is written (databases, keys, vault, logs) is for this account alone.
    os.umask(0o077)


app.command(rich_help_panel="Run")(running.demo)
app.command(rich_help_panel="Run")(running.up)
app.command(rich_help_panel="Run")(running.serve)
app.command(rich_help_panel="Set up")(upkeep.keys)
app.command(rich_help_panel="Set up")(upkeep.migrate)
app.command(rich_help_panel="Set up")(upkeep.account)
app.command(name="check-register", rich_help_panel="Set up")(check_register)
app.command(rich_help_panel="Look")(due)
app.command(name="verify-package", rich_help_panel="Look")(verify_package)
app.command(rich_help_panel="Look")(upkeep.health)
app.command(rich_help_panel="Run")(upkeep.bounce)
audit.command("verify")(upkeep.audit_verify)
app.add_typer(audit, name="audit", rich_help_panel="Look")

if __name__ == "__main__":
    app()

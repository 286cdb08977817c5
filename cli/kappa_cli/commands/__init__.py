"""The commands: arguments, help, output and exit statuses, by typer. It may import `kappa_cli.api`, `kappa_cli.local`
and the core."""

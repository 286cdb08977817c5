"""The command `kappa`: `main` is its entry point, `app` its commands, `invoke` the one that talks to a gateway."""

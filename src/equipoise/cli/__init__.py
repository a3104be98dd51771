"""The command ``equipoise``; :mod:`equipoise.cli.app` registers its subcommands, one a file."""

"""The command ``equipoise``, one file a command; :mod:`equipoise.cli.app` registers them."""

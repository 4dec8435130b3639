"""Subcommands: each module has add(commands) and run(args)."""

"""`segany`: the command line. A command imports what it needs when it runs: none needs what another does."""

from .app import main

__all__ = ["main"]

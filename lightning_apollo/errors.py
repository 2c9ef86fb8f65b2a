"""Errors that a user can put right: one line on the terminal and exit code 2."""


class UserError(Exception):
    """Base of every error whose message names what is wrong and the fix, in one line."""

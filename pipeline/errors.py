"""The one exception that a user's mistake ends in; commands turn it into one line on standard error."""


class InputError(Exception):
    """What was given cannot be used. The message says what was received, expected, and what to do."""

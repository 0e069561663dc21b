"""The one exception that stands for a caller's mistake."""


class UserError(ValueError):
    """A mistake of the person who calls: a bad file, option or combination of them.

    The message is one line that names the file, row, field or argument and says what was expected.
    The command line prints it and exits with code 2; it never shows a traceback for it.

    Examples
    --------
    >>> from autoemb.errors import UserError
    >>> raise UserError("--batch-size is 1; batch statistics need at least 2 events")
    Traceback (most recent call last):
        ...
    autoemb.errors.UserError: --batch-size is 1; batch statistics need at least 2 events
    """

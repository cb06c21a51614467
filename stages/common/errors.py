"""Exceptions of the project.

    LongfuseError
      UserError (also ValueError)      something the user can mend; the message says what, where and what to do
        ConfigError                    params.yaml, a profile, a flag
        InputError                     documents, a model folder, a dataset
        NotEnoughDataError             a corpus is too small for what was asked of it
      EnvironmentFailureError (RuntimeError) the machine, the network, a service; nothing in the project is wrong

A `UserError` is shown without a traceback. `assert` guards our own invariants.
"""

from __future__ import annotations


class LongfuseError(Exception):
    """Root of every error that longfuse raises on purpose."""


class UserError(LongfuseError, ValueError):
    """A mistake that the user can mend. The message says what, where and what to do."""


class ConfigError(UserError):
    """A parameter, profile or flag that is wrong."""


class InputError(UserError):
    """A document, model or dataset that cannot be used."""


class NotEnoughDataError(InputError):
    """The corpus is too small for a task type: the message says which, and how many were found."""


class EnvironmentFailureError(LongfuseError, RuntimeError):
    """The machine, network or a service failed; running again later may help."""

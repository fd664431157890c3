"""The exceptions this package raises. Catch `PrealignError` for all of them.

PrealignError            a problem the user can mend; the command line prints one line and exits 2
  ConfigError            a setting is unknown, of the wrong type, or contradicts another
  DataError              a document, span, score, shard or input file is malformed
  RunError               a run folder is missing, foreign, or in use
  TrainError             training stopped: a loss that is not finite, a spike, a mismatch on resume
  GuardError             a forbidden token was about to be emitted, or a guard cannot do its work
  MissingDependency      an optional package is needed; the message has the line that installs it
"""


class PrealignError(Exception):
    """A problem the user can mend. The command line prints it without a traceback."""


class ConfigError(PrealignError, ValueError):
    """A setting is unknown, of the wrong type, or contradicts another."""


class DataError(PrealignError, ValueError):
    """A document, span, score, shard or input file is malformed."""


class RunError(PrealignError, RuntimeError):
    """A run folder is missing, foreign, or in use."""


class TrainError(PrealignError, RuntimeError):
    """Training stopped: a loss that is not finite, a spike, or a mismatch on resume."""


class GuardError(PrealignError, RuntimeError):
    """A forbidden token was about to be emitted, or the guard cannot do its work."""


class MissingDependency(PrealignError, ImportError):
    """An optional package is needed; the message has the line that installs it."""

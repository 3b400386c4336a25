"""What can go wrong in the trainer because of its input. Each says what, where, and what to do.

    TrainerError
    ├── ConfigError    also a ValueError: a setting is wrong
    ├── DataError      also a ValueError: a data set is wrong
    ├── ModelError     also a RuntimeError: a model cannot be loaded
    ├── CheckpointError  also a RuntimeError: nothing to resume from, or another run's
    ├── DivergedError  also an ArithmeticError: the policy exploded
    └── ServiceAwayError  also a ConnectionError: the curriculum service was away for too long

The SDK's own errors are in `trainer_client.exceptions`.
"""

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DivergedError",
    "ModelError",
    "ServiceAwayError",
    "TrainerError",
]


class TrainerError(Exception):
    """Base of the trainer's errors; the command line prints them without a traceback."""


class ConfigError(TrainerError, ValueError):
    """A setting is wrong; the message names the field."""


class DataError(TrainerError, ValueError):
    """A data set is wrong; the message names the file and the line."""


class ModelError(TrainerError, RuntimeError):
    """A model or its tokenizer cannot be loaded."""


class CheckpointError(TrainerError, RuntimeError):
    """A checkpoint is missing, incomplete or of another run."""


class DivergedError(TrainerError, ArithmeticError):
    """KL or gradient norm exploded several steps in a row; the last good checkpoint is kept."""


class ServiceAwayError(TrainerError, ConnectionError):
    """The curriculum service was away for longer than the settings wait; a checkpoint is kept."""

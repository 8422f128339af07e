"""Every error that leaves a package carries one of the codes below.

The codes are `google.rpc.Code`'s, because that list already defines the HTTP status and whether a
caller may retry. Messages are lower case without a full stop and name the wrong value, where it
stood and what was expected.
"""

import enum
from typing import ClassVar


class Code(enum.IntEnum):
    """`google.rpc.Code`, the part of it that we use."""

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


HTTP_STATUS: dict[Code, int] = {
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 422,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 410,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}


class IsthmusError(Exception):
    """Base of all our errors; `code` says what a program should do about it."""

    code: ClassVar[Code] = Code.INTERNAL

    @property
    def message(self) -> str:
        """What happened, for people."""
        return str(self.args[0]) if self.args else type(self).__name__


class InvalidInputError(IsthmusError):
    """A file, request, frame or name is malformed; the message says where and what was expected."""

    code = Code.INVALID_ARGUMENT


class BadIdentityError(IsthmusError):
    """The caller did not prove who it is."""

    code = Code.UNAUTHENTICATED


class NotAllowedError(IsthmusError):
    """The caller is known and may not do this."""

    code = Code.PERMISSION_DENIED


class NotFoundError(IsthmusError):
    """The named thing does not exist."""

    code = Code.NOT_FOUND


class AlreadyExistsError(IsthmusError):
    """The name is taken."""

    code = Code.ALREADY_EXISTS


class PreconditionError(IsthmusError):
    """The system is not in a state that allows this; retrying alone will not help."""

    code = Code.FAILED_PRECONDITION


class StaleRevisionError(IsthmusError):
    """A write named a revision that is no longer the newest; read again, then retry the whole."""

    code = Code.ABORTED


class CompactedError(IsthmusError):
    """The history asked for is gone: list again, then watch."""

    code = Code.OUT_OF_RANGE


class LimitExceededError(IsthmusError):
    """A named bound was reached."""

    code = Code.RESOURCE_EXHAUSTED


class UnavailableError(IsthmusError):
    """Nothing happened; the same call may succeed later or elsewhere."""

    code = Code.UNAVAILABLE


class OutcomeUnknownError(IsthmusError):
    """The call may or may not have taken effect: repeat it with the same request id, or read."""

    code = Code.DEADLINE_EXCEEDED


class CorruptError(IsthmusError):
    """Bytes on disk fail their checksum; the process stops rather than guess."""

    code = Code.DATA_LOSS


def error_class(code: int) -> type[IsthmusError]:
    """Return the class that carries `code`, for errors that crossed a wire; unknown codes are INTERNAL."""
    return _BY_CODE.get(code, IsthmusError)


def cause_of(error: BaseException) -> BaseException:
    """Return the one error that explains an end: inside groups, a programming error before one of ours."""
    leaves = _leaves(error)
    return next((leaf for leaf in leaves if not isinstance(leaf, IsthmusError)), leaves[0])


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in _leaves(inner)]


_BY_CODE: dict[int, type[IsthmusError]] = {int(kind.code): kind for kind in IsthmusError.__subclasses__()}

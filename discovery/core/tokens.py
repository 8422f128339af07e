"""Which join tokens have which secret: found in one step, however many tokens there are."""

from collections.abc import Sequence

from discovery.core.kinds import decode_spec
from discovery.core.model import FEDERATION_SCOPE, Change, ResourceKey, unpack_resource
from discovery.core.specs import JoinTokenSpec
from discovery.core.tables import Tables, resource_prefix
from federation.kernel.errors import InvalidInputError

_TOKENS = resource_prefix(FEDERATION_SCOPE, "JoinToken")


def is_token(change: Change) -> bool:
    """True for a change of a join token."""
    return change.table == "resources" and change.key.startswith(_TOKENS)


class TokenIndex:
    """The tokens of one version of the tables, by the SHA-256 of their secrets. Bounded by the tokens."""

    def __init__(self, tables: Tables) -> None:
        """Read all of them once."""
        self._keys: dict[str, tuple[ResourceKey, ...]] = {}
        for _, value in tables.resources.items(_TOKENS):
            self._note(value, present=True)

    def find(self, secret_sha256: str) -> Sequence[ResourceKey]:
        """Return the tokens with this secret, by name: one, unless an older build let a second one in."""
        return self._keys.get(secret_sha256, ())

    def take(self, before: bytes | None, after: bytes | None) -> None:
        """Follow a change of one token's row, both packed; None: it was not there, or is not any more."""
        if before is not None:
            self._note(before, present=False)
        if after is not None:
            self._note(after, present=True)

    def _note(self, value: bytes, *, present: bool) -> None:
        row = unpack_resource(value)
        try:
            spec = decode_spec("JoinToken", row.spec, where=str(row.key))
        except InvalidInputError:
            return  # Of a newer build: nobody can claim it here.
        assert isinstance(spec, JoinTokenSpec)
        others = [key for key in self.find(spec.secret_sha256) if key != row.key]
        if keys := tuple(sorted([*others, row.key] if present else others)):
            self._keys[spec.secret_sha256] = keys
        else:
            self._keys.pop(spec.secret_sha256, None)

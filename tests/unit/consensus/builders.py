"""Values that several consensus tests need."""

from consensus.core.contract import MemberAddress


def member(name: str, port: int = 7400) -> MemberAddress:
    """Return a member whose address and identity follow from its name."""
    return MemberAddress(
        id=name, address=f"{name}.test:{port}", identity=f"spiffe://{name}.test/isthmus/{name}/controller/1"
    )


ALPHA, BETA, GAMMA = member("alpha"), member("beta"), member("gamma")

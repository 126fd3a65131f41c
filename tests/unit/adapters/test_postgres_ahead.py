"""What is read ahead, without a server: whose answers may be relied upon."""

from minuet.adapters.postgres.ahead import FIND_ALL, KNOWN_ALL, LOCK_ALL, Ahead
from minuet.codec import attributes_to_text
from minuet.ports import LooksAt, ReadAhead
from minuet.testing.store_contract.examples import RESERVED, an_envelope


def test_what_is_known_counts_only_if_nobody_else_can_add_to_it() -> None:
    """Of a saga that another instance begins just after we looked for it, to lock it, we hold no lock."""
    ahead = Ahead()
    sagas = [("Orders", name) for name in ("locked", "new", "begun between")]
    asked = ahead.ask([ReadAhead(lambda tx: None, lambda: LooksAt(["e-1"], sagas))])
    assert [command.statement for command in asked] == [LOCK_ALL, KNOWN_ALL, FIND_ALL]
    envelope = an_envelope()
    row = (str(RESERVED), attributes_to_text(envelope), envelope.body)
    known = [("Orders", "locked", *row), ("Orders", "begun between", *row)]
    ahead.answered([[("Orders", "locked")], known, []])
    assert ahead.known == {("Orders", "locked"): {RESERVED: envelope}, ("Orders", "new"): {}}
    assert ahead.entries == {"e-1": None}

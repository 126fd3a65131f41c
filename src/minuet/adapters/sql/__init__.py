"""What the stores on SQL databases have in common, written once."""

REFUSAL = (
    "minuet commits or rolls back, together with its own rows, when the handler has returned or raised: "
    "a handler must not commit, roll back, begin or close"
)

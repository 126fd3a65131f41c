"""What the shop sells when it opens."""

from decimal import Decimal

PRICES = {
    "ITEM001": Decimal("100.25"),
    "ITEM002": Decimal("19.99"),
    "ITEM003": Decimal("5.00"),
    "ITEM004": Decimal("249.90"),
    "ITEM005": Decimal("50.50"),
    "ITEM006": Decimal("12.45"),
    "ITEM007": Decimal("74.00"),
    "ITEM008": Decimal("0.99"),
}
PIECES = 100_000
"""Of each item."""

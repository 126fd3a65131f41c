"""The reference system: a shop whose orders are reserved, paid and shipped by services that share nothing but messages.

Begin with `contracts`, then `inventory`, then `process`.
"""

from minuet import App
from minuet_shop.inventory import inventory
from minuet_shop.notifications import notifications
from minuet_shop.orders import orders
from minuet_shop.payment import payment
from minuet_shop.process import order_processing, order_view
from minuet_shop.sandbox import sandbox
from minuet_shop.shipping import shipping

app = App(
    "shop",
    services=[orders, inventory, payment, shipping, notifications, sandbox],
    sagas=[order_processing],
    read_models=[order_view],
)

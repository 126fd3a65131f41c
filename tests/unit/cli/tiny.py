"""The smallest app with everything that an operator meets: a saga, a refusal, a command that fails, a listener."""

from minuet import App, Command, Event, Refusal, RetryPolicy, Saga, Service, step


class Wished(Event, channel="wishes"):
    wish_id: str
    text: str


class Granted(Event, channel="granted"):
    wish_id: str


class Denied(Refusal, channel="granted"):
    wish_id: str


class Thanked(Event, channel="thanks"):
    wish_id: str


class Wish(Command, service="people", answers=(Wished,), key="wish_id"):
    wish_id: str
    text: str


class Grant(Command, service="fairy", answers=(Granted, Denied), http="POST /grants", key="wish_id"):
    wish_id: str
    text: str


class Thank(Command, service="people", answers=(Thanked,), key="wish_id"):
    wish_id: str


people = Service("people")
fairy = Service("fairy")
press = Service("press")
broken: set[str] = set()
"""Ids of wishes for which nobody can thank just now."""
printed: list[str] = []


@people.handles(Wish)
def wish(command: Wish) -> Wished:
    return Wished(wish_id=command.wish_id, text=command.text)


@fairy.handles(Grant)
def grant(command: Grant) -> Granted | Denied:
    return Denied(wish_id=command.wish_id) if "gold" in command.text else Granted(wish_id=command.wish_id)


@people.handles(Thank, retry=RetryPolicy(attempts_max=1))
def thank(command: Thank) -> Thanked:
    if command.wish_id in broken:
        raise RuntimeError("no words")
    return Thanked(wish_id=command.wish_id)


@press.on(Wished)
def report(event: Wished) -> None:
    printed.append(event.text)


app = App(
    "tiny",
    services=[people, fairy, press],
    sagas=[Saga("Wishes", begins_with=Wished, key="wish_id", steps=[step(Grant), step(Thank)])],
)
APP = "tests.unit.cli.tiny:app"
not_an_app = "a string"

"""Apps and simulations for `minuet simulate`: one that keeps its promises, and some that do not get as far as that."""

from typing import Annotated, Any
from uuid import UUID

from pydantic import ConfigDict, Field

from minuet import App, Command, Event, Refusal, RetryPolicy, Saga, Service, step
from minuet.testing.simulation import Simulation, World

Name = Annotated[str, Field(examples=["Ada"])]


class Asked(Event, channel="asked"):
    loan_id: str
    amount: int


class Lent(Event, channel="lent"):
    loan_id: str


class NotLent(Refusal, channel="lent"):
    loan_id: str


class Told(Event, channel="told"):
    loan_id: str


class Ask(Command, service="desk", answers=(Asked,), key="loan_id"):
    loan_id: Annotated[str, Field(pattern=r"^L\d{4}$", examples=["L0001"])]
    name: Name
    amount: Annotated[int, Field(examples=[100])]
    purpose: str | None = None


class AskAgain(Command, service="desk", answers=(Asked,), key="loan_id"):
    loan_id: str
    amount: int

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"loanId": "again", "amount": 7}, {"loanId": "again", "amount": 666}]}
    )


class Lend(Command, service="bank", answers=(Lent, NotLent), key="loan_id"):
    loan_id: str
    amount: int


class Tell(Command, service="desk", answers=(Told,), key="loan_id"):
    loan_id: str


def app_of(name: str, *begins: type[Command], tells: Any = None) -> App:
    desk, bank = Service("desk"), Service("bank")

    def ask(command: Any) -> Asked:
        return Asked(loan_id=str(command.loan_id), amount=command.amount)

    for command in begins:
        ask.__annotations__ = {"command": command, "return": Asked}
        desk.handles(command)(ask)

    @bank.handles(Lend)
    def lend(command: Lend) -> Lent | NotLent:
        return NotLent(loan_id=command.loan_id) if command.amount == 666 else Lent(loan_id=command.loan_id)

    if tells is None:

        def tell(command: Tell) -> Told:
            return Told(loan_id=command.loan_id)

        tells = tell
    desk.handles(Tell, retry=RetryPolicy(attempts_max=2))(tells)
    saga = Saga("Loans", begins_with=Asked, key="loan_id", steps=[step(Lend), step(Tell)])
    return App(name, services=[desk, bank], sagas=[saga])


app = app_of("loans", Ask, AskAgain)


# -- what cannot be simulated ------------------------------------------------------------------------------------------


class AskBlindly(Command, service="desk", answers=(Asked,), key="loan_id"):
    loan_id: str
    amount: int


class AskWrongly(Command, service="desk", answers=(Asked,), key="loan_id"):
    loan_id: str
    amount: Annotated[int, Field(ge=10, examples=[1])]


class AskOnce(Command, service="desk", answers=(Asked,), key="loan_id"):
    loan_id: Annotated[str, Field(pattern="^the one$", examples=["the one"])]
    amount: Annotated[int, Field(examples=[1])]


class AskByUuid(Command, service="desk", answers=(Asked,), key="loan_id"):
    loan_id: UUID
    amount: Annotated[int, Field(examples=[1])]


class Letters:
    """Somebody who writes letters."""


def write(command: Tell) -> Told:
    raise RuntimeError("there is no paper")


async def write_with(command: Tell, letters: Letters) -> Told:
    return Told(loan_id=command.loan_id)


no_example = app_of("no_example", AskBlindly)
wrong_example = app_of("wrong_example", AskWrongly)
no_fresh_key = app_of("no_fresh_key", AskOnce)
by_uuid = app_of("by_uuid", AskByUuid)
without_paper = app_of("without_paper", Ask, tells=write)
nothing_provided = app_of("nothing_provided", Ask, tells=write_with)
nobody_begins = app_of("nobody_begins")
without_sagas = App("without_sagas", services=[Service("desk")])
not_an_app = "a string"


# -- a simulation with an invariant that a fault breaks ----------------------------------------------------------------

simulation = Simulation(app)


@simulation.drive
async def customers(world: World) -> None:
    for number in range(6):
        await world.send(AskAgain(loan_id=f"l{number}", amount=number))


@simulation.eventually
def nothing_comes_twice(world: World) -> None:
    """No message comes twice."""
    assert not world.fired["message_doubled"]

"""What a connection brings becomes messages, however it is cut; what is no message ends it."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.core.messages import HELLO_BYTES_MAX, LENGTH, Appended, Hello, Message, Ping, encode_frame
from consensus.runtime.frames import Frames
from federation.kernel.errors import InvalidInputError
from federation.kernel.limits import FRAME_BYTES_MAX

HELLO = Hello(federation="f", version=1, member="beta")
MESSAGES: tuple[Message, ...] = (
    Ping(),
    Appended(term=1, next_index=2),
    Ping(),
    Appended(term=3, next_index=4),
)
SILENT_S = 30.0


class _Connection(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.is_reading = True

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True


def connected() -> tuple[Frames, _Connection]:
    frames, connection = Frames(), _Connection()
    frames.connection_made(connection)
    return frames, connection


async def received(frames: Frames, end: Exception | None = None) -> tuple[list[Message], Exception]:
    """Return what `receive` hands on of what is there, and how it ends."""
    taken: list[Message] = []
    asyncio.get_running_loop().call_soon(frames.connection_lost, end)
    try:
        await frames.receive(taken.append, silent_s=SILENT_S)
    except (EOFError, OSError, InvalidInputError) as error:
        return taken, error
    raise AssertionError("receive ends by an error")


@given(cuts=st.lists(st.integers(min_value=1, max_value=40), max_size=20))
def test_messages_come_out_in_order_however_the_bytes_are_cut(cuts: list[int]) -> None:
    async def scenario() -> None:
        frames, _connection = connected()
        data = b"".join(map(encode_frame, MESSAGES))
        frames.data_received(encode_frame(HELLO))
        assert await frames.greeting() == HELLO
        at = 0
        for cut in (*cuts, len(data)):
            frames.data_received(data[at : at + cut])
            at += cut
        taken, _error = await received(frames)
        assert tuple(taken) == MESSAGES

    asyncio.run(scenario())


def test_nothing_is_read_or_handed_on_between_the_greeting_and_its_answer() -> None:
    async def scenario() -> None:
        frames, connection = connected()
        frames.data_received(encode_frame(HELLO) + encode_frame(Ping()))
        assert await frames.greeting() == HELLO
        assert not connection.is_reading
        taken, error = await received(frames)
        assert (taken, type(error), connection.is_reading) == ([Ping()], EOFError, True)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("greeting", "rest"),
    [
        pytest.param(LENGTH.pack(HELLO_BYTES_MAX + 1), b"", id="long-greeting"),
        pytest.param(LENGTH.pack(4) + b"\xff" * 4, b"", id="greeting-is-no-message"),
        pytest.param(encode_frame(HELLO), LENGTH.pack(FRAME_BYTES_MAX + 1), id="long-frame"),
        pytest.param(encode_frame(HELLO), LENGTH.pack(4) + b"\xff" * 4, id="frame-is-no-message"),
    ],
)
def test_a_frame_that_is_refused_ends_the_connection(greeting: bytes, rest: bytes) -> None:
    async def scenario() -> None:
        frames, _connection = connected()
        frames.data_received(greeting)
        if not rest:
            with pytest.raises(InvalidInputError):
                await frames.greeting()
            return
        await frames.greeting()
        frames.data_received(rest + encode_frame(Ping()))
        taken, error = await received(frames)
        assert (taken, type(error)) == ([], InvalidInputError)

    asyncio.run(scenario())


def test_an_end_before_the_greeting_is_told() -> None:
    async def scenario() -> None:
        frames, _connection = connected()
        frames.connection_lost(ConnectionResetError("reset"))
        with pytest.raises(ConnectionResetError):
            await frames.greeting()

    asyncio.run(scenario())


def test_a_silent_connection_is_given_up() -> None:
    async def scenario() -> None:
        frames, _connection = connected()
        frames.data_received(encode_frame(HELLO))
        await frames.greeting()
        with pytest.raises(TimeoutError):
            await frames.receive(lambda _message: None, silent_s=0.01)

    asyncio.run(scenario())


def test_what_a_taker_raises_ends_the_connection_at_that_message() -> None:
    async def scenario() -> None:
        frames, _connection = connected()
        taken: list[Message] = []

        def take(message: Message) -> None:
            taken.append(message)
            raise InvalidInputError("second hello")

        frames.data_received(encode_frame(HELLO))
        await frames.greeting()
        frames.data_received(encode_frame(Ping()) * 2)
        with pytest.raises(InvalidInputError):
            await frames.receive(take, silent_s=SILENT_S)
        assert taken == [Ping()]

    asyncio.run(scenario())

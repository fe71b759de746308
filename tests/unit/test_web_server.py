"""The socket of the page's server."""

import asyncio
import socket

from cytomask.web.server import listen


def test_an_answers_body_does_not_wait_for_the_acknowledgement_of_its_head() -> None:
    async def no_delay() -> int:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            option = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            accepted.set_result(option)
            writer.close()

        with listen(0) as listener:
            address = listener.getsockname()
            async with await asyncio.start_server(connected, sock=listener):
                _, writer = await asyncio.open_connection(*address)
                writer.close()
                return await accepted

    assert asyncio.run(no_delay()) == 1

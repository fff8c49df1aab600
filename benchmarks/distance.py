"""A TCP forwarder that puts a distance between a client and a server: every byte arrives later, none slower.

    python benchmarks/distance.py PORT MILLISECONDS

Prints the port it listens on; MILLISECONDS is the round trip. Its own process, so that it takes nothing of the
client's interpreter.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator

CHUNK_BYTES = 2**18


@contextlib.contextmanager
def distant(port: int, milliseconds: int) -> Iterator[int]:
    """The port of a forwarder to `port`."""
    command = [sys.executable, __file__, str(port), str(milliseconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.terminate()


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """One direction of a connection."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                due, data = await queue.get()
                await asyncio.sleep(due - loop.time())
                if not data:
                    break
                writer.write(data)
                await writer.drain()
        writer.close()

    delivery = asyncio.create_task(deliver())
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(CHUNK_BYTES):
            queue.put_nowait((loop.time() + delay, data))
    queue.put_nowait((loop.time() + delay, b""))
    await delivery


async def main(port: int, milliseconds: int) -> None:
    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        delay = milliseconds / 2000
        await asyncio.gather(carry(reader, there_writer, delay), carry(there_reader, writer, delay))

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))

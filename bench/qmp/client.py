"""As bench/qmp.ts measures its own client: client.py SOCKET COMMAND COUNT prints the seconds of each command."""
import asyncio
import json
import sys
import time

from qemu.qmp import QMPClient


async def main() -> None:
    socket, command, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    client = QMPClient("bench")
    await client.connect(socket)
    took = []
    for _ in range(count):
        began = time.perf_counter()
        await client.execute(command)
        took.append(time.perf_counter() - began)
    await client.disconnect()
    print(json.dumps({"seconds": took, "cpu": time.process_time()}))


asyncio.run(main())

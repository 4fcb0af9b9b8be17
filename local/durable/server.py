"""The host's HTTP surface on a loopback socket.

Invariant: the port in every URL that the app hands out is the one that is really bound.
"""

import socket

from aiohttp import web
from azure.durable_functions.models.utils import http_utils

from local.durable.host import Host
from local.durable.management import Management
from local.durable.triggers import Triggers


def listen(port: int = 0) -> socket.socket:
    """A listening socket on 127.0.0.1; port 0 takes a free one."""
    return socket.create_server(("127.0.0.1", port))


async def serve(host: Host, listening: socket.socket | None = None) -> web.AppRunner:
    """Serve the host in the running loop until the runner's `cleanup`; sets host.port to the bound port."""
    listening = listening or listen()
    host.port = listening.getsockname()[1]
    app = web.Application(client_max_size=2**30)
    app.add_routes([*Management(host).routes(), *Triggers(host).routes()])
    app.on_cleanup.append(_close_client_session)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listening).start()
    return runner


async def _close_client_session(_: web.Application) -> None:
    # The SDK's durable clients share one session of the process, bound to the first loop that used it; a host that is
    # served in another loop later would get "Event loop is closed".
    await http_utils._close_session()  # noqa: SLF001  # it has no public way; the version is pinned

"""Where the demo's store comes from: the user's server, or one started for it and ended with it."""

from __future__ import annotations

import contextlib
from typing import Iterator, Optional

import attr

from elk_coordinator.cli.common import note
from elk_coordinator.store import connect
from elk_coordinator.store.keys import KeySpace
from elk_coordinator.testing import EmbeddedServer


@attr.s(auto_attribs=True, frozen=True)
class Server:
    """A server to use."""

    url: str
    #: What it is, for people.
    label: str
    simulated: bool


@contextlib.contextmanager
def open_server(url: Optional[str], namespace: str, keep: bool) -> Iterator[Server]:
    """Give the server at *url*, or else an embedded one.

    The namespace's keys are removed from the user's server at the end, unless *keep*; the embedded one just ends.
    """
    if url:
        try:
            yield Server(url, "the server at %s" % connect.mask(url), False)
        finally:
            if not keep:
                _remove_keys(url, namespace)
        return
    with EmbeddedServer() as server:
        yield Server(server.url, server.label, server.simulated)


def _remove_keys(url: str, namespace: str) -> None:
    try:
        client = connect.from_url(url)(5.0, "elk-demo")
        try:
            for key in list(client.scan_iter(match=KeySpace(namespace).pattern, count=1000)):
                client.unlink(key)
        finally:
            client.close()
    except Exception as exc:  # tidying up must not hide how the demo ended
        note("could not remove the keys %s: %s" % (KeySpace(namespace).pattern, exc))

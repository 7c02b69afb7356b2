"""Unit tests reach nothing but this machine."""

import pytest
from pytest_socket import socket_allow_hosts


@pytest.fixture(autouse=True)
def only_local_sockets():
    """Refuse every connection that leaves the machine; pytest-socket lifts the ban after the test."""
    socket_allow_hosts(["127.0.0.1"], allow_unix_socket=True)

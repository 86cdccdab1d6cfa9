from __future__ import annotations

import sys

import pytest

from tests.transports.test_httpx import TransportTests


@pytest.mark.skipif(sys.version_info < (3, 11), reason="httpx2 needs Python 3.11")
class TestHttpx2(TransportTests):
    family = "httpx2"

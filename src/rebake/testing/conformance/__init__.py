"""One suite per port; every adapter and every double passes the same one. Needs pytest."""

import pytest

# pytest explains the assertions of a package only where it is told to: a bare AssertionError helps nobody.
pytest.register_assert_rewrite(*(f"{__name__}.{suite}" for suite in ("ledger", "platform", "route", "router")))

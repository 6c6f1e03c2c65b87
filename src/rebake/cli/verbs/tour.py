"""`rebake tour`: see it all, on one machine, within two minutes."""

from __future__ import annotations

import click

_PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@click.command(context_settings=_PASS_ON)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def command(*, options: tuple[str, ...]) -> int:
    """A real small service under real load: a good release promoted, a bad one taken back, an undo, a drift replaced.

    Asks nothing, needs no network beyond this machine, leaves nothing behind.
    """
    from rebake.tour.run import main

    return int(main(list(options)) or 0)

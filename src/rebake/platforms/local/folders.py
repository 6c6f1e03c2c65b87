"""The instance folders of one home: what was intended, what was seen, how it ended. Decides nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from rebake.core.clock import Boot
from rebake.platforms import logs
from rebake.platforms.local import processes, trees
from rebake.platforms.local.layout import Layout, ProcessFolder
from rebake.platforms.local.records import Identity, Intent, Settled
from rebake.platforms.records import Ended, Stopping, read_record, write_record

STUB_SECONDS = 2.0
"""A stub that has not recorded itself after this long will not: it was ended, or never started."""


class Folders:
    """Every instance of one home by its folder.

    Args:
        boot: of this machine, by the clock that times are told by: records are retold by it.
    """

    def __init__(self, layout: Layout, boot: Callable[[], Boot | None]) -> None:
        self.layout = layout
        self._boot = boot
        self._intents: dict[str, Intent] = {}
        self._identities: dict[str, Identity] = {}
        self._names: list[str] = []
        self._listed: Sequence[tuple[ProcessFolder, Intent]] = ()
        self._lock = threading.Lock()

    def all(self) -> Sequence[tuple[ProcessFolder, Intent]]:
        """Instances that are known, in the order of their names."""
        root = self.layout.home.instances
        try:
            names = sorted(entry.name for entry in os.scandir(root) if not entry.name.startswith("."))
        except FileNotFoundError:
            return ()
        with self._lock:
            if names == self._names:
                return self._listed
            for stale in self._intents.keys() - set(names):
                del self._intents[stale]
                self._identities.pop(stale, None)
        folders = [ProcessFolder(root / name) for name in names]
        listed = [(folder, intent) for folder in folders if (intent := self.intent(folder)) is not None]
        with self._lock:
            # A folder without its intent yet is looked at again.
            self._names, self._listed = (names if len(listed) == len(names) else []), listed
        return listed

    def of(self, service: str, environment: str) -> Iterator[tuple[ProcessFolder, Intent]]:
        for folder, intent in self.all():
            if (intent.spec.service, intent.spec.environment) == (service, environment):
                yield folder, intent

    def intent(self, folder: ProcessFolder) -> Intent | None:
        with self._lock:
            known = self._intents.get(folder.id)
        if known is None and (known := read_record(Intent, folder.spec)) is not None:
            known = known.told(self._boot())
            with self._lock:
                self._intents[folder.id] = known
        return known

    def identity(self, folder: ProcessFolder) -> Identity | None:
        """Which process it is, by the record the process made itself."""
        with self._lock:
            known = self._identities.get(folder.id)
        if known is None and (known := read_record(Identity, folder.pid)) is not None:
            with self._lock:
                self._identities[folder.id] = known
        return known

    def remember(self, folder: ProcessFolder, identity: Identity) -> None:
        """What we know of a process we started ourselves, before its own record is there."""
        with self._lock:
            self._identities[folder.id] = identity

    def write_intent(self, folder: ProcessFolder, intent: Intent) -> None:
        """Make the folder with the intent in it: it is there whole or not at all, wherever a kill comes.

        Raises: OSError.
        """
        self.layout.home.instances.mkdir(parents=True, mode=0o700, exist_ok=True)
        made = ProcessFolder(self.layout.home.instances / f".new-{folder.id}")
        for left in (made.root, folder.root):  # without an intent it is nothing
            trees.remove_tree(left)
        try:
            made.root.mkdir(mode=0o700)
            made.scratch.mkdir(mode=0o700)
            self.layout.data(intent.spec.service, intent.spec.environment).mkdir(parents=True, exist_ok=True)
            write_record(made.spec, intent)
            made.root.rename(folder.root)
        except OSError:
            trees.remove_tree(made.root)
            raise

    def stopping(self, folder: ProcessFolder) -> Stopping | None:
        known = read_record(Stopping, folder.stopping)
        return known and known.told(self._boot())

    def settled(self, folder: ProcessFolder) -> Settled | None:
        return read_record(Settled, folder.settled)

    def exit(self, folder: ProcessFolder, now: float) -> str | None:
        """How it ended, or None while it lives or may still come to life."""
        ended = read_record(Ended, folder.exit)
        if ended is not None:
            return ended.text
        if self.identity(folder) is not None:
            return None
        intent = self.intent(folder)
        if intent is not None and now - intent.created_at > STUB_SECONDS:
            return "never started: the agent ended while it was launching it"
        return None

    def trees_in_use(self) -> set[str]:
        return {tree for _, intent in self.all() for tree in intent.trees}

    def ports_in_use(self) -> set[int]:
        return {intent.launch.port for _, intent in self.all()}

    def remove(self, folder: ProcessFolder) -> None:
        """Keep the log and make the folder vanish. `sweep` then removes its content, which may take a while."""
        logs.keep(folder.log, self.layout.kept_logs, folder.id)
        trash = self.layout.home.instances / f".gone-{folder.id}"
        with suppress(FileNotFoundError):
            folder.root.rename(trash)
        with self._lock:
            self._intents.pop(folder.id, None)
            self._identities.pop(folder.id, None)

    def log_of(self, instance: str) -> Path:
        """The log of an instance, also of one that is retired."""
        folder = self.layout.instance(instance)
        return folder.log if folder.root.exists() else self.layout.kept_logs / f"{instance}.log"

    def sweep(self) -> None:
        """Remove the content of folders that vanished, also those of a removal that was killed."""
        self._clear(".gone-*")

    def sweep_unborn(self) -> None:
        """Remove what a killed agent was making; to be called before anything is made."""
        self._clear(".new-*")

    def _clear(self, pattern: str) -> None:
        for path in self.layout.home.instances.glob(pattern):
            trees.remove_tree(path)


def session_of(identity: Identity, data_root: Path) -> list[Identity]:
    """Live processes of the session that `identity` led: what it started and left behind."""
    return [m.identity for m in processes.marked(data_root) if m.session == identity.pid]

"""An emulated Kubernetes cluster for tests, strict where a real one is.

`Cluster` is the door. `docs/kubernetes-emulator.md` says what it does and what it leaves out.
"""

from rebake.testing.kubernetes.access import ADMIN_TOKEN
from rebake.testing.kubernetes.certificates import Identity, NoOpenssl
from rebake.testing.kubernetes.cluster import Cluster
from rebake.testing.kubernetes.controllers.kubelet import Behaviour
from rebake.testing.kubernetes.faults import Fault, Gate
from rebake.testing.kubernetes.status import ApiError

__all__ = ["ADMIN_TOKEN", "ApiError", "Behaviour", "Cluster", "Fault", "Gate", "Identity", "NoOpenssl"]

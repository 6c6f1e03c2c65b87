"""Fleets as Deployments and StatefulSets of a cluster; `platform.KubernetesPlatform` is the door."""

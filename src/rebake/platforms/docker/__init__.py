"""The `docker` platform: instances are containers of the release's image on this machine's Docker or Podman.

Entry point: `rebake.platforms.docker.platform.DockerPlatform`. Nothing is imported here, so that the room stays cheap;
only `client` names the SDK, which is an optional extra.
"""

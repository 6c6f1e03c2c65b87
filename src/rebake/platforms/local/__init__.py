"""The `local` platform: instances are processes of the unpacked release on this machine.

Entry point: `rebake.platforms.local.platform.LocalPlatform`. Nothing is imported here, so that the room stays cheap.
"""

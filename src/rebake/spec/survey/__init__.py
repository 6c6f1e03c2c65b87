"""Looks at a folder and says how what lies there is probably run. Reads only; imports nothing of the folder."""

"""Registries of images, by the OCI distribution protocol: releases are pushed and pulled, bases pulled."""

"""Meshes of devices: how many there are for what, and which part of an array lies where."""
